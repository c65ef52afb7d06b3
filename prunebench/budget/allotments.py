"""How many channels each unit gives: by one ratio, by a table of ratios, by one threshold through all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from prunebench.budget.counts import Count, prune_floor, step_ratio
from prunebench.budget.ranked import Unit
from prunebench.errors import UserError

Counts = tuple[int, ...]
"""Number of pruned channels of each unit."""

Family = Callable[[float], Counts]
"""Share pruned in [0, 1] -> counts; no unit's count falls when the share grows."""


def by_ratio(units: Sequence[Unit], count: Count) -> Family:
    """The same ratio in each unit."""
    return lambda ratio: tuple(unit.share(count, ratio) for unit in units)


def by_threshold(units: Sequence[Unit]) -> Family:
    """The floor(N * share) lowest of all N channels; the channels of a group count once."""
    # a stable sort of (unit, rank) pairs: within a unit the order of removal is kept, dead channels come first
    ranked = sorted((score, place) for place, unit in enumerate(units) for score in unit.scores)
    places = [place for _, place in ranked]

    def family(share: float) -> Counts:
        lowest = Counter(places[: prune_floor(len(places), share)])
        return tuple(unit.prune(lowest[place]) for place, unit in enumerate(units))

    return family


def by_table(units: Sequence[Unit], ratios: Mapping[str, float], count: Count, fraction: float) -> Counts:
    """Each unit by its own ratio; a unit that the table does not name keeps all.

    Raises:
        UserError: layers that share one keep-set have different ratios.
    """
    counts = []
    for unit in units:
        named = {name: ratios[name] for name in unit.layers if name in ratios}
        if len(set(named.values())) > 1:
            told = ", ".join(f"{name}: {ratio:g}" for name, ratio in named.items())
            raise UserError(unit.differing(told))
        ratio = next(iter(named.values()), 0.0)
        counts.append(unit.share(count, step_ratio(ratio, fraction)))
    return tuple(counts)
