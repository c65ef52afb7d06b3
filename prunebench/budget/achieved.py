"""What a plan achieves beside what was asked for, as ``budget`` of a result has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from prunebench.budget.counts import ratio_table, step_ratio
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


def describe(
    plan: Plan,
    names: Collection[str],
    graph: ChannelGraph,
    *,
    targets: Mapping[str, float | None] | None = None,
    prune_ratio: float | Mapping[str, float] | None = None,
    fraction: float = 1.0,
    shared: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What a plan achieves: the entries of :attr:`prunebench.budget.Choice.achieved` without ``seconds``.

    Args:
        plan: what stays.
        names: the layers that were asked to give channels.
        graph: of the dense net.
        targets, prune_ratio: what was asked for; a target (``target_macs``, ...) replaces the ratio.
        fraction: of an iterative schedule, see :func:`prunebench.budget.choose`.
        shared: layer -> how many of ``names`` have its channels; those count once, as for a ratio.
    """
    numbers = {name: graph.layers[name].out_channels for name in names}
    each = {name: 1 / (shared or {}).get(name, 1) for name in names}
    widths = {name: number * each[name] for name, number in numbers.items()}
    kept = sum(len(plan.keep.get(name, range(number))) * each[name] for name, number in numbers.items())
    given = {name.removeprefix("target_"): target for name, target in (targets or {}).items() if target is not None}
    target_of, target = next(iter(given.items()), (None, None))
    if given:
        prune_ratio = None
    achieved: dict[str, Any] = {
        "channels_kept": kept / sum(widths.values()),
        "channels_asked": None if prune_ratio is None else _asked(widths, prune_ratio, fraction),
        "target": target,
        "target_of": target_of,
    }
    return counted(achieved, macs=graph.macs(plan) / graph.dense_macs, params=graph.params(plan) / graph.dense_params)


def counted(achieved: Mapping[str, Any], *, macs: float, params: float) -> dict[str, Any]:
    """``achieved`` with these sizes of the small net, as shares of the dense one's."""
    kept = {"macs": macs, "params": params}
    reached = kept.get(achieved["target_of"], achieved.get("reached"))
    return {**achieved, "macs_kept": macs, "params_kept": params, "reached": reached}


def _asked(widths: Mapping[str, float], prune_ratio: float | Mapping[str, float], fraction: float) -> float:
    """Share of the channels of layers with these ``widths`` that a ratio, or a table of them, asks to keep."""
    table = ratio_table({"*": prune_ratio} if isinstance(prune_ratio, float | int) else prune_ratio, widths)
    gone = sum(width * step_ratio(table.get(name, 0.0), fraction) for name, width in widths.items())
    return 1 - gone / sum(widths.values())
