"""Does a row still run? Compose its configuration, build net and method, make a cut and count it. No data are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from prunebench.config import named
from prunebench.config.phase import build_phases
from prunebench.data.base import Data
from prunebench.measure.cost import Cost
from prunebench.nets.dense_net import Blueprint, make_net
from prunebench.rows.counting import Count, compare_counts, compare_params, nominal_rates
from prunebench.rows.row import Row
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

RANDOM = {"_target_": "prunebench.criteria.scorers.Random"}


@dataclass(frozen=True)
class Verified:
    """A row that was composed, built and cut.

    Attributes:
        config: the resolved configuration.
        plan: a cut with the row's ratios and random scores.
        counts: each published count beside ours.
    """

    config: Mapping[str, Any]
    plan: Plan
    counts: list[Count] = field(default_factory=list)


def verify(row: Row) -> Verified:
    """Everything that a run of ``row`` does before it needs data.

    Raises:
        UserError: the configuration, the net, the method or the cut is refused.
    """
    from prunebench.rows import compose

    config = compose(row)
    data = named.build("dataset", config["dataset"])  # builds it, reads nothing
    dense = _blueprint(json.dumps(config["model"]), data)
    method = named.build("method", config["method"])
    phases = build_phases(config["schedule"]["phases"])
    job = _Job(dense=dense, data=data, schedule=config["schedule"]["name"], phases=phases)
    method.check(dense.template, job)
    if "criterion" in config["method"]:
        # how many channels go does not depend on which, and distances between the filters of a ResNet-101 take minutes
        method = named.build("method", {**config["method"], "criterion": RANDOM})
    cuts = any(phase.prune for phase in job.phases) or job.schedule == "simultaneous"
    sizes = {"macs", "flops", "params", "macs_removed", "params_removed"}
    if cuts and method.sizes_given and row.reported.keys() & sizes:
        method.prune(dense.template, job)
    if data.task == "classification":
        rates = nominal_rates(config["method"].get("prune_ratio"), dense.graph, job.plan)
        counts = compare_counts(row, dense.graph, job.plan, rates)
    else:
        counts = compare_params(row, dense.cost.params)
    if not method.sizes_given:
        counts = [count for count in counts if count.what.startswith("dense_")]
    return Verified(config, job.plan, counts)


class _Job(SimpleNamespace):
    """What a method asks of a job before and at a cut; the cut is only noted."""

    seed = 0
    fraction = 1.0
    phase = None
    plan = Plan()

    @property
    def example(self) -> torch.Tensor:
        return self.data.example()  # type: ignore[no-any-return]

    @property
    def graph(self) -> ChannelGraph:
        return self.dense.graph  # type: ignore[no-any-return]

    @property
    def dense_cost(self) -> Cost:
        return self.dense.cost  # type: ignore[no-any-return]

    def choose(self, make: Callable[[], Any]) -> Any:
        return make()

    def cut(self, net: nn.Module, choice: Any) -> nn.Module:
        self.plan = choice.plan
        return net


def _blueprint(settings: str, data: Data) -> Blueprint:
    """A dense net with random weights and its graph; rows of one table share them."""
    example = data.example()
    return _cached_blueprint(settings, tuple(example.shape), example.dtype, data.samples_per_example)


@lru_cache(maxsize=8)
def _cached_blueprint(settings: str, shape: tuple[int, ...], dtype: torch.dtype, samples: int) -> Blueprint:
    example = torch.zeros(shape, dtype=dtype)
    return Blueprint(json.loads(settings), make=lambda given, _: make_net(given), example=example, samples=samples)
