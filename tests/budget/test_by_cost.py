"""Widths by time: the optimum against trying everything, made-up clocks whose answer is known, real small nets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.budget import choose
from prunebench.budget.allocation import Allocation, Factor, added_up, eliminate
from prunebench.errors import UserError
from prunebench.layers import wide
from prunebench.surgery.computed import Sizes, computed_sizes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink


def made_up(draws: np.random.Generator, scopes: Iterable[tuple[int, ...]], num_units: int, num_options: int) -> Any:
    """Random times that grow with every width, random scores."""
    kept = [list(range(1, num_options + 1))] * num_units
    worth = [np.cumsum(np.sort(draws.random(num_options))[::-1]) for _ in kept]
    factors = []
    for scope in scopes:
        table = draws.random([num_options] * len(scope))
        for axis in range(len(scope)):
            table = np.cumsum(table, axis)
        factors.append(Factor(units=scope, table=table))
    whole = sum(float(factor.table[(-1,) * factor.table.ndim]) for factor in factors)
    return Allocation(kept=kept, worth=worth, factors=factors, fixed=0.2 * whole, dense=1.2 * whole)


def best_of_all(allocation: Allocation, goal: float) -> float:
    tried = product(*(range(len(kept)) for kept in allocation.kept))
    return max(allocation.value(options) for options in tried if allocation.share(options) <= goal)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("goal", [0.45, 0.6, 0.8])
def test_separate_blocks_are_solved_exactly(seed: int, goal: float) -> None:
    allocation = made_up(np.random.default_rng(seed), [(0,), (1,), (1,), (2,), (3,)], 4, 5)
    found = allocation.solve(goal)
    assert allocation.share(found) <= goal
    # the time of each of four units is rounded up to a bin
    assert allocation.value(found) >= best_of_all(allocation, goal * (1 - 4 / 4000)) - 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_a_goal_at_the_least_share_is_met_by_what_costs_least(seed: int) -> None:
    allocation = made_up(np.random.default_rng(seed), [(0,), (1,), (2,)], 3, 4)
    for factor in allocation.factors:
        factor.table[1] = factor.table[0]  # a step: the second width costs no more than the first
    assert allocation.solve(allocation.least) == [1, 1, 1]


@pytest.mark.parametrize("scopes", [[(0,), (0, 1), (1, 2), (2, 3), (3,)], [(0, 1), (0, 2), (0, 3), (2, 3)]])
@pytest.mark.parametrize("seed", range(6))
def test_chains_and_streams_come_near_the_best_of_all(seed: int, scopes: list[tuple[int, ...]]) -> None:
    allocation = made_up(np.random.default_rng(seed), scopes, 4, 5)
    for goal in (0.5, 0.7, 0.9):
        found = allocation.solve(goal)
        assert allocation.share(found) <= goal
        assert allocation.value(found) >= 0.95 * best_of_all(allocation, goal)


@pytest.mark.parametrize("seed", range(10))
def test_elimination_finds_the_least_sum(seed: int) -> None:
    draws = np.random.default_rng(seed)
    sizes = [3, 4, 2, 5, 3]
    scopes = [(0,), (0, 1), (1, 3), (2, 3), (2, 4), (0, 4)]
    factors = [Factor(units=scope, table=draws.normal(size=[sizes[u] for u in scope])) for scope in scopes]

    def total(options: Iterable[int]) -> float:
        options = tuple(options)
        return sum(float(f.table[tuple(options[u] for u in f.units)]) for f in factors)

    assert total(eliminate(sizes, factors)) == pytest.approx(min(map(total, product(*map(range, sizes)))))


def test_savings_add_up_where_a_table_is_a_sum() -> None:
    rows, columns = np.array([1.0, 2.0, 4.0]), np.array([0.0, 3.0])
    parts = added_up(Factor(units=(2, 5), table=rows[:, None] + columns))
    assert [part.units for part in parts] == [(2,), (5,)]
    assert parts[0].table[:, None] + parts[1].table == pytest.approx(rows[:, None] + columns)


class ByMacs:
    """A clock on which time is multiply-accumulates; ``step``: a processor computes widths up to a multiple of it."""

    def __init__(self, graph: ChannelGraph, *, step: int = 1, rest: float = 0.0) -> None:
        self.graph, self.step, self.rest = graph, step, rest
        self.layers = list(graph.layers)

    @property
    def dense_cost(self) -> float:
        return self._total(Plan()) + self.rest

    def learn(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        for layer, reads, writes in wanted:
            assert self.cost(layer, reads, writes) > 0

    def cost(self, layer: str, reads: int, writes: int) -> float:
        known = self.graph.layers[layer]
        each = known.kernel_area * known.positions / known.groups
        return float(each * self._up(reads) * self._up(writes))

    def sizes(self, plan: Plan) -> Sizes:
        return computed_sizes(self.graph, plan, narrow=False)

    def share(self, plan: Plan) -> float:
        return (self._total(plan) + self.rest) / self.dense_cost

    def facts(self) -> dict[str, Any]:
        return {"engine": "made up"}

    def _up(self, width: int) -> int:
        return -(-width // self.step) * self.step

    def _total(self, plan: Plan) -> float:
        sizes = self.sizes(plan)
        return sum(self.cost(layer, *size) for layer, size in sizes.items())


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


def residual(*inner: int) -> ChannelGraph:
    layers = [nn.Conv2d(3, 16, 3, padding=1), *(Block(16, width) for width in inner)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return ChannelGraph.trace(net.eval(), torch.zeros(1, 3, 8, 8))


def chain(*widths: int) -> ChannelGraph:
    layers: list[nn.Module] = []
    for reads, writes in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(reads, writes, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
    return ChannelGraph.trace(net.eval(), torch.zeros(1, 3, 8, 8))


def scores_of(graph: ChannelGraph, *, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    convs = [name for name, layer in graph.layers.items() if layer.kind == "conv"]
    return {name: torch.rand(graph.layers[name].out_channels, generator=draws) + 0.1 for name in convs}


@pytest.mark.parametrize("coupling", ["free", "aligned"])
@pytest.mark.parametrize("make", [lambda: residual(16, 24, 32), lambda: chain(16, 24, 32, 16)])
@pytest.mark.parametrize("target", [0.4, 0.7])
def test_on_a_clock_that_counts_macs_the_prediction_is_the_measurement(make: Any, target: float, coupling: str) -> None:
    graph = make()
    if coupling == "free" and target < 0.6 and len(graph.groups()) < len(graph.layers):
        target = 0.6  # the stream keeps its width
    timing = ByMacs(graph, rest=1e5)
    choice = choose(scores_of(graph), graph, target_latency=target, timing=timing, coupling=coupling, normalise="mean")
    facts = choice.achieved["latency"]
    assert facts["measured"] == pytest.approx(facts["predicted"], rel=0.02)
    assert choice.achieved["reached"] == facts["measured"] == pytest.approx(timing.share(choice.plan))
    assert target - 0.07 <= facts["measured"] <= target + 0.01
    assert (choice.achieved["target"], choice.achieved["target_of"]) == (target, "latency")


def test_channels_below_a_step_of_the_processor_are_kept() -> None:
    graph = residual(32, 32, 32)
    timing = ByMacs(graph, step=16)
    plan = choose(scores_of(graph), graph, target_latency=0.8, timing=timing, normalise="mean").plan
    kept = {name: len(channels) for name, channels in plan.keep.items()}
    assert kept
    assert set(kept.values()) <= {16}  # of 32, in two steps
    assert not any(name.endswith("second") for name in kept), "the width of the stream saves no time"


def test_the_least_valuable_block_gives_first() -> None:
    graph = residual(32, 32)
    scores = {"1.first": torch.full((32,), 1.0), "2.first": torch.full((32,), 5.0)}
    plan = choose(scores, graph, target_latency=0.7, timing=ByMacs(graph)).plan
    assert list(plan.keep) == ["1.first"]


def test_blocks_may_vanish() -> None:
    graph = residual(16, 16, 16)
    scores = {f"{place}.first": torch.rand(16) + place for place in (1, 2, 3)}
    overhead = 3e5  # for each layer that runs at all, as in small batches

    class Calls(ByMacs):
        def cost(self, layer: str, reads: int, writes: int) -> float:
            return super().cost(layer, reads, writes) + overhead if reads and writes else 0.0

    timing = Calls(graph)
    choice = choose(scores, graph, target_latency=0.74, timing=timing, min_channels=0)
    assert choice.plan.keep == {"1.first": ()}
    assert choice.achieved["latency"]["measured"] == pytest.approx(choice.achieved["latency"]["predicted"])


def test_a_wrong_prediction_is_corrected_once() -> None:
    graph = residual(64, 64, 64, 64, 64, 64)

    class Slow(ByMacs):
        """In the net layers save four fifths of what they save alone."""

        def share(self, plan: Plan) -> float:
            return 1 - 0.8 * (1 - super().share(plan))

    choice = choose(scores_of(graph), graph, target_latency=0.7, timing=Slow(graph), normalise="mean")
    assert choice.achieved["reached"] == pytest.approx(0.7, abs=0.03)
    assert choice.achieved["latency"]["predicted"] == pytest.approx(choice.achieved["reached"], abs=1e-6)


def test_what_cannot_be_reached_is_refused() -> None:
    graph = residual(16, 16)
    with pytest.raises(UserError, match=r"target_latency=0.1 is out of reach: .* 0\.\d+ of the dense net's time stay"):
        choose({"1.first": torch.rand(16)}, graph, target_latency=0.1, timing=ByMacs(graph))


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_computed_sizes_are_those_of_the_small_net(
    coupling: str, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "_takes_narrow", lambda tensor: narrow)
    layers = [nn.Conv2d(3, 16, 3, padding=1), Block(16, 24), Block(16, 8)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))
    plan = choose(scores_of(graph, seed=3), graph, prune_ratio=0.6, coupling=coupling).plan
    small = shrink(net, graph, plan)
    seen: dict[str, tuple[int, int]] = {}
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, given, out, name=name: seen.update({name: (given[0].shape[1], out.shape[1])})
            )
    small(torch.zeros(1, 3, 8, 8))
    assert seen == computed_sizes(graph, plan, narrow=narrow)
