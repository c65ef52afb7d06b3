"""Gates that were learnt -> the plan of the channels that stay (Wang et al. 2020)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from prunebench.budget.bisection import bisect, largest, num_tied, pick
from prunebench.budget.choose import Choice
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
Keep = Mapping[str, tuple[int, ...]]


def select_epoch(gates: Tensor, accuracies: Sequence[float | None], density: float) -> int:
    """The epoch whose gates are used (learn_gates.py:160-177).

    Args:
        gates: at the end of each epoch, ``[epochs, gates]``.
        accuracies: on the validation split after each epoch; None without one.
        density: largest share of gates that are not 0.

    Returns:
        The first of the best epochs among those that are sparse enough; the last epoch if none is.
    """
    sparse = ((gates != 0).float().mean(1) <= density).tolist()
    found = [(accuracy, -epoch) for epoch, accuracy in enumerate(accuracies) if sparse[epoch] and accuracy is not None]
    return -max(found)[1] if found else len(gates) - 1


def choose_by_gates(
    gates: Mapping[str, Tensor],
    kept: Callable[[Keep], float],
    *,
    target: float,
    max_iterations: int,
    tolerance: float,
    iterate: str,
    seed: int,
) -> Choice:
    """The channels with the largest gates, as many as leave a share ``target`` of the MACs.

    Args:
        gates: layer -> its gates, ``[channels]``.
        kept: kept channels of the layers that lose some -> share of the MACs that this leaves.
        target: share of the MACs that stays, in (0, 1).
        max_iterations, tolerance: see :func:`prunebench.budget.bisection.bisect`. ``iterate``: see its ``pick``.
        seed: decides which of equal gates stay.

    Returns:
        A choice whose ``achieved`` also has ``gap``, ``iterations``, ``mean_gate``, ``nonzero_gates`` and ``tied``,
        the number of equal gates of which the threshold keeps only some.

    Raises:
        UserError: no step is within the budget where that is asked for.
    """
    parts = list(gates.values())

    def keep(counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
        pairs = zip(gates.items(), counts, strict=True)
        return {name: largest(part, count) for (name, part), count in pairs if count < len(part)}

    def removed(counts: Sequence[int]) -> float:
        return 1 - kept(keep(counts))

    trace = bisect(parts, removed, target=1 - target, max_iterations=max_iterations, tolerance=tolerance, seed=seed)
    flat = torch.cat(parts)
    for step in trace:
        log.info("bisection: %d of %d gates, %.2f %% of the MACs removed", step.kept, len(flat), 100 * step.removed)
    chosen = pick(trace, 1 - target, iterate)
    plan = Plan(keep(chosen.counts))
    reason = "all its gates rank above the global threshold"
    achieved: dict[str, float | None] = {
        "channels_kept": sum(chosen.counts) / len(flat),
        "macs_kept": 1 - chosen.removed,
        "target": target,
        "reached": 1 - chosen.removed,
        "gap": chosen.gap(1 - target),
        "iterations": len(trace),
        "mean_gate": float(flat.mean()),
        "nonzero_gates": float((flat != 0).float().mean()),
        "tied": num_tied(parts, chosen.kept),
    }
    return Choice(plan, [{"layer": name, "reason": reason} for name in gates if name not in plan.keep], achieved)
