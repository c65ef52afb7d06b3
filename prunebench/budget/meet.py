"""Find how much to prune for a target: rank once, then bisect on counts that are computed from the plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prunebench.budget.allotments import Counts, Family
from prunebench.budget.ranked import Unit
from prunebench.errors import UserError

_TOLERANCE = 0.005  # of the goal: near enough; half of what the result counts as missed
_SMALLEST_STEP = 1e-7  # of the share pruned: finer than one channel in a million


class _Sizes:
    """Sizes of candidate plans as shares of the dense net, each computed once."""

    def __init__(self, size: Callable[[Counts], float], goal: float) -> None:
        self._size = size
        self._known: dict[Counts, float] = {}
        self.goal = goal

    def __call__(self, counts: Counts) -> float:
        if counts not in self._known:
            self._known[counts] = self._size(counts)
        return self._known[counts]

    def error(self, counts: Counts) -> float:
        return abs(self(counts) - self.goal)


def meet(units: Sequence[Unit], family: Family, size: Callable[[Counts], float], goal: float, *, what: str) -> Counts:
    """The counts whose size is nearest to ``goal``.

    Args:
        units: what the counts belong to.
        family: the plans to search, by the share pruned.
        size: counts -> size of the pruned net as a share of the dense one.
        goal: share of the dense net that stays.
        what: "macs" or "params", for the message.

    Raises:
        UserError: even the most pruned plan is larger than the goal.
    """
    sizes = _Sizes(size, goal)
    fewest, most = family(0.0), family(1.0)
    if sizes(most) > goal:
        reachable = math.ceil(sizes(most) * 1e4) / 1e4  # rounded up, so that asking for it works
        raise UserError(
            f"target_{what}={goal:g} is out of reach: with all layers to prune at their floor {reachable:g} of the "
            f"dense net's {what} stay; ask for at least that, prune more layers (method.layers), or lower "
            "min_channels, protect or round_to"
        )
    if sizes(fewest) <= goal:
        return fewest
    larger, smaller = _bracket(family, sizes, fewest, most)
    return _adjust(sizes, _between(sizes, larger, smaller), units)


def _bracket(family: Family, sizes: _Sizes, larger: Counts, smaller: Counts) -> tuple[Counts, Counts]:
    """Two neighbours in the family, the first above the goal, the second not."""
    low, high = 0.0, 1.0
    while high - low > _SMALLEST_STEP and sum(smaller) - sum(larger) > 1:
        middle = (low + high) / 2
        counts = family(middle)
        if sizes(counts) > sizes.goal:
            low, larger = middle, counts
        else:
            high, smaller = middle, counts
    return larger, smaller


def _between(sizes: _Sizes, larger: Counts, smaller: Counts) -> Counts:
    """Move unit after unit, from the last one, to the smaller plan's count; the nearest on that path, by bisection."""

    def path(moved: int) -> Counts:
        stay = len(larger) - moved
        return larger[:stay] + smaller[stay:]

    low, high = 0, len(larger)
    while high - low > 1:
        middle = (low + high) // 2
        if sizes(path(middle)) > sizes.goal:
            low = middle
        else:
            high = middle
    return min((path(high), path(low)), key=sizes.error)


def _adjust(sizes: _Sizes, counts: Counts, units: Sequence[Unit]) -> Counts:
    """In a net of few channels one channel weighs more than the tolerance: single steps, while they help."""
    while sizes.error(counts) > _TOLERANCE * sizes.goal:
        steps = [
            (*counts[:place], step, *counts[place + 1 :])
            for place, unit in enumerate(units)
            for step in unit.neighbours(counts[place])
        ]
        best = min(steps, key=sizes.error, default=counts)
        if sizes.error(best) >= sizes.error(counts):
            break
        counts = best
    return counts
