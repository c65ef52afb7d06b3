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

from prunebench.blueprint import Blueprint
from prunebench.budget import ratio_table
from prunebench.criteria.scorers import Random
from prunebench.method import NOT_ARGUMENTS
from prunebench.phase import build_phases
from prunebench.rows.counting import Count, compare_counts
from prunebench.rows.row import Row
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


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
    from prunebench.cli import make
    from prunebench.rows import compose

    config = compose(row)
    dense = _blueprint(json.dumps(config["model"]), config["dataset"]["size"])
    method = make("method", config["method"], drop=NOT_ARGUMENTS)
    if hasattr(method, "criterion"):
        method.criterion = Random()  # how many channels go does not depend on which
    phases = build_phases(config["schedule"]["phases"])
    job = _Job(dense=dense, graph=dense.graph, schedule=config["schedule"]["name"], phases=phases)
    method.check(dense.template, job)
    cuts = any(phase.prune for phase in job.phases) or job.schedule == "simultaneous"
    sizes = {"macs", "flops", "params", "macs_removed", "params_removed"}
    if cuts and method.sizes_given and row.reported.keys() & sizes:
        method.prune(dense.template, job)
    counts = compare_counts(
        row, dense.graph, job.plan, _rates(config["method"].get("prune_ratio"), dense.graph, job.plan)
    )
    if not method.sizes_given:
        counts = [count for count in counts if count.what.startswith("dense_")]
    return Verified(config, job.plan, counts)


class _Job(SimpleNamespace):
    """What a method asks of a job before and at a cut; the cut is only noted."""

    seed = 0
    fraction = 1.0
    phase = None
    plan = Plan()

    def choose(self, make: Callable[[], Any]) -> Any:
        return make()

    def cut(self, net: nn.Module, choice: Any) -> nn.Module:
        self.plan = choice.plan
        return net


@lru_cache(maxsize=8)
def _blueprint(settings: str, size: int) -> Blueprint:
    """A dense net with random weights and its graph; rows of one table share them."""
    from prunebench.cli import make_net

    model = json.loads(settings)
    example = torch.zeros(1, model["in_channels"], size, size)
    return Blueprint(model, make=lambda given, _: make_net(given), example=example)


def _rates(ratio: Any, graph: ChannelGraph, plan: Plan) -> dict[str, float]:
    """Layer -> nominal share of its channels that goes; a layer that loses none has the rate 0."""
    if isinstance(ratio, Mapping):
        return {name: rate for name, rate in ratio_table(ratio, graph.layers).items() if name in plan.keep}
    return dict.fromkeys(plan.keep, float(ratio or 0.0))
