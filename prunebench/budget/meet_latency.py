"""Widths for a target of time: predicted from the layers' times, then measured on the small net and corrected once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prunebench.budget import by_cost
from prunebench.budget.allotments import Counts
from prunebench.budget.ranked import Unit
from prunebench.surgery.plan import Plan

NEAR = 0.01  # of the dense net's time: a measured share so near to the goal is not corrected
MOST = 3.0  # a prediction further off than by this factor was a disturbed measurement
TOLERANCE = 0.02
"""A share of time that is further from its target is ``missed_target``."""


def meet_latency(
    units: Sequence[Unit],
    plan_of: Callable[[Counts], Plan],
    timing: by_cost.Timing,
    goal: float,
    *,
    measured: bool,
    value: Callable[[Plan], float] | None = None,
) -> tuple[Counts, dict[str, Any]]:
    """Numbers of pruned channels whose net takes the share ``goal`` of the dense net's time, worth the most.

    Args:
        value: what a plan that cuts one unit is worth; None = the sum of the scores that stay.
        measured: measure the small net, and choose once more where the prediction is off.

    Returns:
        The counts, and ``predicted``, ``measured`` (None if it was not), ``dense_ms`` and, with ``value``, the
        ``values`` (first layer of a unit -> channels kept -> worth) beside the timing's facts.

    Raises:
        OutOfReach: the smallest widths take longer.
    """
    allocation = by_cost.allocation(
        units,
        lambda counts: timing.sizes(plan_of(counts)),
        timing,
        None if value is None else lambda counts: value(plan_of(counts)),
    )

    def solved(asked: float) -> tuple[Counts, float, float | None]:
        options = allocation.solve(asked)
        kept = [numbers[option] for numbers, option in zip(allocation.kept, options, strict=True)]
        counts = tuple(unit.size - number for unit, number in zip(units, kept, strict=True))
        return counts, allocation.share(options), clocked(counts)

    def clocked(counts: Counts) -> float | None:
        return timing.share(plan_of(counts)) if measured else None

    found = solved(goal)
    _, predicted, share = found
    if share is not None and abs(share - goal) > NEAR and predicted < 1:
        # what the layers save in the net, as a share of what they save alone; the dense net's time stays what it is
        gain = min(max((1 - share) / (1 - predicted), 1 / MOST), MOST)
        again = solved(max(1 - (1 - goal) / gain, allocation.least))
        again = (again[0], 1 - gain * (1 - again[1]), again[2])
        found = min(found, again, key=lambda tried: abs((tried[2] or 0.0) - goal))
    counts, predicted, share = found
    facts = {"predicted": predicted, "measured": share, "dense_ms": 1e3 * allocation.dense, **timing.facts()}
    if value is not None:
        curves = zip(units, allocation.kept, allocation.worth, strict=True)
        facts["values"] = {
            unit.layers[0]: dict(zip(map(str, kept), worth.tolist(), strict=True)) for unit, kept, worth in curves
        }
    return counts, facts
