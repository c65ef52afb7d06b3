"""Does a row still run? Compose its configuration, build net and method, make a cut and count it. No data are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from prunebench.config import named
from prunebench.config.phase import build_phases
from prunebench.core.distilled import Teacher
from prunebench.core.task import task_of
from prunebench.data.base import Data
from prunebench.nets.dense_net import DenseNet, make_net
from prunebench.rows.counting import Count, compare_counts, compare_params, nominal_rates
from prunebench.rows.row import Row
from prunebench.run import suits
from prunebench.run.bare import BareRun
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
    dense = _dense_net(json.dumps(config["model"]), data)
    method = named.build("method", config["method"])
    phases = build_phases(config["schedule"]["phases"])
    run = BareRun(
        dense=dense,
        data=data,
        task=task_of(data),
        schedule=config["schedule"]["name"],
        phases=phases,
        phase=next((phase for phase in reversed(phases) if phase.prune), phases[-1]),
        carry_out=False,  # the sizes follow from the plan, and comparing ResNet-101s takes a minute
    )
    method.check(dense.template, run)
    if config.get("teacher"):
        suits.check_teacher(named.build("teacher", config["teacher"], expects=Teacher), run)
    if "criterion" in config["method"]:
        # how many channels go does not depend on which, and distances between the filters of a ResNet-101 take minutes
        method = named.build("method", {**config["method"], "criterion": RANDOM})
    cuts = any(phase.prune for phase in run.phases) or run.schedule == "simultaneous"
    sizes = {"macs", "flops", "params", "macs_removed", "params_removed"}
    if cuts and method.sizes_given and row.reported.keys() & sizes:
        run.note(method.cut_sizes(dense.template, run))
    if data.task == "classification":
        rates = nominal_rates(config["method"].get("prune_ratio"), dense.graph, run.plan)
        counts = compare_counts(row, dense.graph, run.plan, rates, base=run.graph)
    else:
        # a pass through the whole window to count products would take gigabytes
        counts = compare_params(row, sum(p.numel() for p in dense.template.parameters()))
    if not method.sizes_given:
        counts = [count for count in counts if count.what.startswith("dense_")]
    return Verified(config, run.plan, counts)


def _dense_net(settings: str, data: Data) -> DenseNet:
    """A dense net with random weights and its graph; rows of one table share them."""
    example = data.example()
    return _cached_dense_net(settings, tuple(example.shape), example.dtype, data.samples_per_example)


@lru_cache(maxsize=8)
def _cached_dense_net(settings: str, shape: tuple[int, ...], dtype: torch.dtype, samples: int) -> DenseNet:
    example = torch.zeros(shape, dtype=dtype)
    return DenseNet(json.loads(settings), make=lambda given, _: make_net(given), example=example, samples=samples)
