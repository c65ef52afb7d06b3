"""Scales of norm layers -> plan: one threshold through all layers (Liu et al. 2017), or a share of each layer."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunebench.budget import amounts
from prunebench.budget.achieved import counted
from prunebench.budget.allotments import Counts, Family
from prunebench.budget.choose import Choice
from prunebench.budget.counts import Floor, PruneRatio, prune_floor
from prunebench.budget.meet import meet
from prunebench.budget.ranked import Unit, ranked_scores, removal_order
from prunebench.budget.units import num_needed
from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveFraction, PositiveInt
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_scales import Scale
from prunebench.surgery.plan import Plan

_NOISE = 1e-9  # 10 * 0.3 may come out as 2.9999999999999996: a count is an integer up to float noise


@validated
@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much goes, and what stays in any case.

    Attributes:
        prune_ratio: share of all channels that goes, in [0, 1); excludes a target.
        target_macs, target_params: share of the dense net that stays, in (0, 1].
        scope: "global", one threshold through all layers, or "layer", the same share of each.
        min_channels: so many of each layer stay, at least 1.
        max_layer_ratio: at most this share of a layer's channels goes at one cut, in (0, 1]; None = no such limit.
        round_to: the number kept is rounded up to a multiple of it.

    Raises:
        UserError: a value out of its range, none or several of ratio and targets.
    """

    prune_ratio: PruneRatio | None = None
    target_macs: amounts.TargetShare | None = None
    target_params: amounts.TargetShare | None = None
    scope: amounts.Scope = "global"
    min_channels: PositiveInt = 1
    max_layer_ratio: PositiveFraction | None = None
    round_to: PositiveInt = 1

    def __post_init__(self) -> None:
        targets = {"target_macs": self.target_macs, "target_params": self.target_params}
        amounts.check_amount(prune_ratio=self.prune_ratio, targets=targets, scope=self.scope)

    @property
    def target(self) -> float | None:
        """Share of MACs or parameters that stays."""
        return self.target_macs if self.target_macs is not None else self.target_params

    def floor(self, num_live: int) -> Floor:
        """Of a layer that has ``num_live`` channels before this cut."""
        most = num_live if self.max_layer_ratio is None else prune_floor(num_live, self.max_layer_ratio)
        return Floor(min_channels=max(self.min_channels, num_live - most), round_to=self.round_to)


def choose_by_scales(
    values: Mapping[str, Tensor],
    scales: Mapping[str, Scale],
    graph: ChannelGraph,
    amount: Amount,
    *,
    done: float = 0.0,
    fraction: float = 1.0,
    within: Plan | None = None,
) -> Choice:
    """Remove the channels of smallest scale.

    With a ratio p and the T channels that are still there in ascending order y, the threshold is ``y[int(T * p)]``
    and a channel stays iff it is strictly above (official code, vggprune.py:63-73): int(T * p) + 1 channels go, and
    more where some are equal. A ratio of 0 removes nothing. ``scope="layer"`` removes floor(n * p) of each layer.

    Args:
        values: norm -> sizes of the scales, ``[width]``.
        scales: the norms that take part.
        graph: of the dense net.
        done, fraction: shares of an iterative schedule that are done before and after this cut. Each cut takes the
            same share q of the channels that are left, 1 - q = (1 - p)^(fraction - done); a target is t^fraction.
        within: the plan of the cut before: its dead channels stay dead and do not count.

    Raises:
        UserError: a scale that is not finite, a target out of reach.
    """
    before = within or Plan()
    units = [_unit(scale, values[norm], before, amount, graph) for norm, scale in scales.items()]
    ordered = tuple(scales.values())
    family = by_strict_threshold(units) if amount.scope == "global" else _by_share(units)

    def plan_of(counts: Counts) -> Plan:
        plan = before
        for scale, unit, num_pruned in zip(ordered, units, counts, strict=True):
            plan = scale.cut(plan, unit.keep(num_pruned)) if num_pruned else plan
        return plan

    if amount.target is not None:
        what = "macs" if amount.target_macs is not None else "params"
        size, whole = (graph.macs, graph.dense_macs) if what == "macs" else (graph.params, graph.dense_params)
        counts = meet(units, family, lambda c: size(plan_of(c)) / whole, amount.target**fraction, what=what)
    else:
        assert amount.prune_ratio is not None  # checked by Amount
        counts = family(1.0 - (1.0 - amount.prune_ratio) ** (fraction - done))
    plan = plan_of(counts)
    graph.check(plan)
    whole_layers = [s.name for s, unit, num_pruned in zip(ordered, units, counts, strict=True) if not num_pruned]
    reason = "all of its scales are above the threshold, or its floor keeps them all"
    not_pruned = [{"layer": name, "reason": reason} for name in whole_layers]
    asked = None if amount.prune_ratio is None else (1.0 - amount.prune_ratio) ** fraction
    return Choice(plan, not_pruned, _achieved(plan, scales, graph, amount) | {"channels_asked": asked})


def by_strict_threshold(units: Sequence[Unit]) -> Family:
    """All channels up to and with the one at place int(T * share) of the T live ones."""
    live = sorted(score for unit in units for score in unit.scores[unit.num_dead :])

    def family(share: float) -> Counts:
        if share == 0.0:
            return tuple(unit.prune(0) for unit in units)
        threshold = live[min(math.floor(len(live) * share + _NOISE), len(live) - 1)]
        return tuple(unit.prune(bisect_right(unit.scores, threshold)) for unit in units)

    return family


def _by_share(units: Sequence[Unit]) -> Family:
    """floor(n * share) of the n live channels of each layer."""
    return lambda share: tuple(
        unit.prune(unit.num_dead + prune_floor(unit.size - unit.num_dead, share)) for unit in units
    )


def _unit(scale: Scale, values: Tensor, before: Plan, amount: Amount, graph: ChannelGraph) -> Unit:
    sizes = values.detach().cpu().double().abs()
    if not bool(torch.isfinite(sizes).all()):
        raise UserError(f"the scales of {scale.norm} are not finite; has the training diverged?")
    dead = set(range(scale.width)).difference(scale.kept(before))
    pieces = graph.pieces(scale.layer) if scale.layer is not None else ()
    order = removal_order(sizes, dead=dead, pieces=pieces)
    floor = amount.floor(scale.width - len(dead)).at_least(num_needed(pieces, order))
    return Unit((scale.name,), tuple(order), ranked_scores(sizes, order, len(dead)), len(dead), floor)


def _achieved(plan: Plan, scales: Mapping[str, Scale], graph: ChannelGraph, amount: Amount) -> dict[str, Any]:
    kept = sum(len(scale.kept(plan)) for scale in scales.values())
    achieved: dict[str, Any] = {
        "channels_kept": kept / sum(scale.width for scale in scales.values()),
        "target": amount.target,
        "target_of": None if amount.target is None else "macs" if amount.target_macs is not None else "params",
    }
    return counted(
        achieved, macs=graph.macs(plan) / graph.macs(Plan()), params=graph.params(plan) / graph.params(Plan())
    )
