"""Widths by what was measured, at a target of MACs or parameters: counts by hand, the optimum against trying all."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.budget import choose
from prunebench.budget.allocation import Allocation
from prunebench.budget.by_value import Counted
from prunebench.surgery.computed import counted_sizes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from tests.budget.test_by_cost import chain, made_up, residual, scores_of


def depthwise() -> ChannelGraph:
    layers = [
        nn.Conv2d(3, 12, 3, bias=False),
        nn.Conv2d(12, 12, 3, groups=12, bias=False),
        nn.Conv2d(12, 8, 1, bias=False),
    ]
    net = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False))
    return ChannelGraph.trace(net.eval(), torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("make", [lambda: residual(16, 24, 32), lambda: chain(16, 24, 32, 16), depthwise])
@pytest.mark.parametrize("seed", range(3))
def test_what_layers_cost_adds_up_to_the_count_of_the_net(make: Any, seed: int) -> None:
    graph, rng = make(), random.Random(seed)
    free = [name for name, layer in graph.layers.items() if graph.why_not(name) is None and layer.kind == "conv"]
    widths = {name: graph.layers[name].out_channels for name in free}
    plan = Plan({name: tuple(sorted(rng.sample(range(n), rng.randint(1, n)))) for name, n in widths.items()})
    price = Counted(graph, "macs")
    for tried in (Plan(), plan):
        assert sum(price.cost(name, *size) for name, size in counted_sizes(graph, tried).items()) == graph.macs(tried)
    assert price.dense_cost == graph.macs(Plan())


def test_weights_are_the_parameters_of_a_net_without_norms_and_biases() -> None:
    graph = depthwise()
    price, plan = Counted(graph, "params"), Plan({"0": (0, 3, 5), "2": (1, 2)})
    total = sum(price.cost(name, *size) for name, size in counted_sizes(graph, plan).items())
    assert total == graph.params(plan) == 3 * 3 * 9 + 3 * 9 + 3 * 2 + 2 * 5 * 9


def concave(graph: ChannelGraph, weight: dict[str, float]) -> Any:
    """What a plan is worth: the square roots of the shares that stay, below 0 as minus a loss is."""

    def value(plan: Plan) -> float:
        shares = {name: len(kept) / graph.layers[name].out_channels for name, kept in plan.keep.items()}
        return sum(weight[name] * (share**0.5 - 1) for name, share in shares.items()) - 10

    return value


@pytest.mark.parametrize("target", [0.4, 0.6, 0.8])
def test_near_the_best_of_all_widths(target: float) -> None:
    graph = residual(16, 16, 16)
    scores = {name: line for name, line in scores_of(graph).items() if name.endswith("first")}
    weight = {"1.first": 1.0, "2.first": 4.0, "3.first": 0.2}
    value = concave(graph, weight)
    choice = choose(scores, graph, target_macs=target, value=value)
    assert choice.achieved["reached"] == graph.macs(choice.plan) / graph.dense_macs == pytest.approx(target, rel=0.02)

    def plan(widths: tuple[int, ...]) -> Plan:
        return Plan({name: tuple(range(width)) for name, width in zip(scores, widths, strict=True)})

    allowed = (
        tried for tried in product(range(1, 17), repeat=3) if graph.macs(plan(tried)) <= target * graph.dense_macs
    )
    best = max(value(plan(tried)) for tried in allowed)
    assert value(plan(tuple(len(choice.plan.keep.get(name, range(16))) for name in scores))) >= best - 0.15
    assert choice.achieved["values"]["2.first"]["16"] == pytest.approx(-10)


def test_by_scores_the_same_layers_lose_alike() -> None:
    graph = residual(16, 16, 16)
    scores = {f"{place}.first": torch.rand(16) + 1 for place in (1, 2, 3)}
    worth = concave(graph, {"1.first": 1.0, "2.first": 50.0, "3.first": 1.0})
    alike = choose(scores, graph, target_params=0.7).plan
    told = choose(scores, graph, target_params=0.7, value=worth).plan
    assert len({len(kept) for kept in alike.keep.values()}) == 1
    assert "2.first" not in told.keep and len(told.keep["1.first"]) < len(alike.keep["1.first"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("goal", [0.5, 0.7, 0.9])
def test_a_worth_below_zero_changes_no_choice(seed: int, goal: float) -> None:
    found = made_up(np.random.default_rng(seed), [(0,), (0, 1), (1, 2), (2, 3), (3,)], 4, 5)
    lower = Allocation(
        kept=found.kept,
        worth=[line - 100 for line in found.worth],
        factors=found.factors,
        fixed=found.fixed,
        dense=found.dense,
    )
    assert lower.solve(goal) == found.solve(goal)
