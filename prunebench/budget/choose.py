"""Scores -> plan: uniform, per-layer table, one global threshold, or a share of MACs or parameters that stays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunebench.budget import amounts
from prunebench.budget.achieved import describe
from prunebench.budget.allocation import OutOfReach
from prunebench.budget.allotments import Counts, by_ratio, by_table, by_threshold
from prunebench.budget.by_cost import Timing
from prunebench.budget.by_value import by_value
from prunebench.budget.counts import COUNTS, Count, CountName, Floor, PruneRatio, ratio_table, step_ratio
from prunebench.budget.free_channels import with_free_channels
from prunebench.budget.meet import meet
from prunebench.budget.meet_latency import TOLERANCE, meet_latency
from prunebench.budget.ranked import Unit
from prunebench.budget.units import check_scores, make_units
from prunebench.config.arguments import validated
from prunebench.config.ranges import Fraction, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


@dataclass(frozen=True)
class Choice:
    """A plan, what it leaves out, and what it achieves.

    Attributes:
        plan: the channels that stay, in channels of the dense net; only layers that lose some are in it.
        not_pruned: ``{"layer", "reason"}`` for each scored layer that keeps all of its channels.
        achieved: ``channels_kept`` (share, over the scored layers, channels that several share once) and
            ``channels_asked`` (the share that a ratio asks to keep, None with a target), ``macs_kept`` and
            ``params_kept`` (share of the dense net), ``target`` (share of MACs, parameters or time asked for, None with
            a ratio), ``target_of`` ("macs", "params" or "latency"),
            ``reached`` (what there is of it), ``seconds`` (spent on choosing); with a target of time ``latency`` (see
            :func:`prunebench.budget.meet_latency.meet_latency`) and the ``tolerance`` of the target; with free channels
            ``free_channels`` (``num_kept``: how many they are, and what was timed where); with a ``value`` and a target
            of MACs or parameters ``values`` (first layer of a unit -> channels kept -> worth).
    """

    plan: Plan
    not_pruned: list[dict[str, str]]
    achieved: dict[str, Any]


@validated
def choose(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    *,
    prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None,
    scope: amounts.Scope = "layer",
    coupling: amounts.Coupling = "free",
    min_channels: NonNegativeInt = 1,
    round_to: PositiveInt = 1,
    count: CountName | Count = "prune_floor",
    normalise: amounts.Normalisation = "none",
    target_macs: amounts.TargetShare | None = None,
    target_params: amounts.TargetShare | None = None,
    target_latency: amounts.TargetShare | None = None,
    timing: Timing | None = None,
    measured: bool = True,
    free_channels: bool = False,
    value: Callable[[Plan], float] | None = None,
    protect: Fraction = 0.0,
    fixed: Collection[str] = (),
    fraction: PositiveFraction = 1.0,
    within: Plan | None = None,
) -> Choice:
    """Remove the channels with the lowest scores; among equal ones the lowest index goes first.

    Args:
        scores: layer -> ``[channels]``; only these layers are asked to give channels.
        graph: of the dense net.
        prune_ratio: share of channels that goes: one number, or a table (name or glob -> ratio, the first match
            wins, no match keeps all). Excludes a target.
        scope: "layer" compares scores within a layer; "global" draws one threshold through all of them: the lowest
            floor(N * ratio) of the N channels go. What a floor protects there is not made up for elsewhere.
        coupling: "free" gives each layer its own keep-set; "aligned" one to all layers that meet in an addition,
            behind a concatenation too (there with ``round_to`` 1 and ``min_channels`` up to 1): their scores are added,
            members without scores follow, and a member that must stay whole keeps all.
        min_channels: at least so many stay in each layer; 0 lets those vanish that an addition bypasses.
        round_to: the number kept is rounded up to a multiple of it, never above the width.
        count: how a ratio becomes a number of channels: "prune_floor", "keep_floor", or a function. "global" has no use
            for it.
        normalise: "mean", "max" or "l2" divides the scores of each layer by their mean size, their largest size or
            their L2 norm before they are compared, or "none". The L2 norm grows with the width: wide layers lose more.
            "ranks" compares shares, see :func:`prunebench.budget.units.comparable`.
        target_macs: share of the dense net's MACs that is to stay, in (0, 1].
        target_params: the same for parameters.
        target_latency: share of the dense net's time by ``timing``; the widths that are worth most in it are chosen,
            whatever ``scope`` and ``count`` say. ``measured``: time the small net too, and correct the choice once.
        free_channels: behind a ratio, keep those channels too without which the net is no faster by ``timing``; a
            target of time does so in any case. Without ``measured`` nothing is timed and nothing added.
        value: with a target, what a net is worth in which one unit is cut: the widths that are worth most are chosen,
            whatever ``scope`` and ``count`` say; None = with a target of time the sum of its scores.
        protect: share of the channels of each layer that stays in any case, in [0, 1].
        fixed: layers without scores that must stay whole, also if their group is cut.
        fraction: of an iterative schedule, in (0, 1]: the ratio is 1 - (1 - p)^fraction, the target t^fraction.
        within: the plan of the step before: its dead channels stay dead and count as the first to go.

    Raises:
        UserError: a value out of its range, a pattern without a layer, no layer that can lose channels, a target out of
            reach (the message names the smallest reachable share), scores that are not finite.
    """
    started = time.perf_counter()
    targets = {"target_macs": target_macs, "target_params": target_params, "target_latency": target_latency}
    amounts.check_amount(prune_ratio=prune_ratio, targets=targets, scope=scope)
    counter = COUNTS[count] if isinstance(count, str) else count
    floor = Floor(min_channels=min_channels, protect=protect, round_to=round_to)
    scores = check_scores(scores, graph)
    before = within or Plan(keep={})
    even = scope == "layer" and target_latency is None
    units, blocked = make_units(
        scores, graph, coupling=coupling, fixed=fixed, before=before, normalise=normalise, floor=floor, even=even
    )
    if not units:
        name, reason = next(iter(blocked.items()))
        others = f", and so do the {len(blocked) - 1} other layers to prune" if len(blocked) > 1 else ""
        raise UserError(
            f"nothing to prune: {name} stays whole, since {reason}{others}; name layers that can lose channels in "
            "method.layers, linear ones too, for example method.layers=[*]"
        )
    family = by_threshold(units) if scope == "global" else by_ratio(units, counter)
    target = target_macs if target_macs is not None else target_params
    found: dict[str, Any] = {}
    if target_latency is not None:
        assert timing is not None, "a target of time needs somebody who times"
        goal, plan_of = target_latency**fraction, lambda counts: _plan(units, counts, before)
        try:
            counts, facts = meet_latency(units, plan_of, timing, goal, measured=measured, value=value)
        except OutOfReach as error:
            levers = _levers(scores, graph, coupling=coupling, min_channels=min_channels)
            raise UserError(
                f"target_latency={goal:g} is out of reach: with all layers to prune at their floor "
                f"{math.ceil(error.least * 1e3) / 1e3:g} of the dense net's time stay; ask for at least that{levers}"
            ) from error
        found = {"latency": facts, "reached": facts["measured"], "tolerance": TOLERANCE}
        why = dict.fromkeys(scores, "its channels are worth more than the time that they take")
    elif target is not None:
        what = "macs" if target_macs is not None else "params"
        if value is not None:
            family, worth = by_value(units, lambda counts: _plan(units, counts, before), graph, what, value)
            found = {"values": worth}
        counts = meet(units, family, _sizer(graph, units, before, what), target**fraction, what=what)
        why = dict.fromkeys(scores, "the target is met without it")
    elif isinstance(prune_ratio, Mapping):
        table = ratio_table(prune_ratio, scores)
        counts = by_table(units, table, counter, fraction)
        why = {name: _too_little(table[name]) if name in table else "the table has no ratio for it" for name in scores}
    else:
        assert prune_ratio is not None  # checked above
        counts = family(step_ratio(float(prune_ratio), fraction))
        text = "its channels rank above the global threshold" if scope == "global" else _too_little(prune_ratio)
        why = dict.fromkeys(scores, text)
    if free_channels and measured and target_latency is None:
        assert timing is not None, "free channels need somebody who times"
        clock = timing
        wider = with_free_channels(units, counts, lambda tried: clock.sizes(_plan(units, tried, before)), timing)
        extra = sum((a - b) * len(unit.layers) for unit, a, b in zip(units, counts, wider, strict=True))
        free = [unit.layers for unit, a, b in zip(units, counts, wider, strict=True) if a and not b]
        why |= dict.fromkeys(
            (name for layers in free for name in layers), "the net would be no faster without any of its channels"
        )
        counts, found = wider, {"free_channels": {"num_kept": extra, **timing.facts()}}
    plan = _plan(units, counts, before)
    graph.check(plan)
    whole = _whole(units, counts, why) | blocked
    shared = {name: len(scores.keys() & set(unit.layers)) for unit in units for name in unit.layers}
    achieved = describe(plan, scores, graph, targets=targets, prune_ratio=prune_ratio, fraction=fraction, shared=shared)
    achieved |= {**found, "seconds": time.perf_counter() - started}
    return Choice(plan, [{"layer": name, "reason": whole[name]} for name in scores if name in whole], achieved)


def _plan(units: Sequence[Unit], counts: Counts, before: Plan) -> Plan:
    """The plan in which each unit has given so many channels; what ``before`` says of other layers stays."""
    keep = dict(before.keep)
    for unit, num_pruned in zip(units, counts, strict=True):
        if num_pruned:
            keep |= unit.kept(num_pruned)
    return Plan(keep=keep, inputs=before.inputs)


def _sizer(graph: ChannelGraph, units: Sequence[Unit], before: Plan, what: str) -> Callable[[Counts], float]:
    """Counts -> MACs or parameters as a share of the dense net's."""
    size, dense = (graph.macs, graph.dense_macs) if what == "macs" else (graph.params, graph.dense_params)
    return lambda counts: size(_plan(units, counts, before)) / dense


def _levers(scores: Collection[str], graph: ChannelGraph, *, coupling: str, min_channels: int) -> str:
    """What would let a net be smaller than it can be with these settings, in words."""
    free = [name for name, layer in graph.layers.items() if layer.kind != "depthwise" and not layer.is_output]
    more = [name for name in free if name not in scores and graph.why_not(name) is None]
    found = []
    if any(graph.layers[name].kind != "linear" for name in more):
        found.append("prune all layers (method.layers=all)")
    elif more:
        found.append(f"prune linear layers too (method.layers=[*], now without {more[0]})")
    if coupling == "free" and any(graph.layers[name].meets_addition for name in free):
        found.append("let those give time that meet in additions (method.coupling=aligned)")
    if min_channels > 0:
        found.append("let blocks vanish (method.min_channels=0)")
    return "".join(f", or {way}" for way in found)


def _too_little(prune_ratio: float) -> str:
    return "its prune ratio is 0" if prune_ratio == 0 else f"its prune ratio of {prune_ratio:g} takes no whole channel"


def _whole(units: Sequence[Unit], counts: Counts, why: Mapping[str, str]) -> dict[str, str]:
    """The scored layers that keep all of their channels, with the reason."""
    reasons: dict[str, str] = {}
    for unit, num_pruned in zip(units, counts, strict=True):
        if num_pruned:
            continue
        closed = unit.prune(unit.size) == 0
        text = f"it has {unit.size} channels and {unit.floor} keep them all"
        reasons |= {name: text if closed else why[name] for name in unit.layers if name in why}
    return reasons
