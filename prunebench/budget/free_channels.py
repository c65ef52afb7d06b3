"""Channels that cost no time: a processor computes widths in steps, and what lies below the next one comes free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunebench.budget.allotments import Counts
from prunebench.budget.by_cost import Timing
from prunebench.budget.ranked import Unit
from prunebench.surgery.computed import Sizes

STEP, REACH = 4, 32
"""Widths are tried in multiples of ``STEP``, up to ``REACH`` channels above: no processor's step is wider."""
SLACK = 0.01
"""Share of the time of a unit's layers below which a difference is that of repeated measurements."""


def with_free_channels(
    units: Sequence[Unit], counts: Counts, sizes: Callable[[Counts], Sizes], timing: Timing
) -> Counts:
    """Fewer pruned channels whose net takes no more time: each unit, in order, gets the widest of the free widths.

    Args:
        units: what shares a keep-set.
        counts: of pruned channels, one for each unit. A unit that keeps nothing stays without channels.
        sizes: counts -> sizes in which the small net computes.
        timing: the clock; layers that it does not know count as nothing.
    """
    known = set(timing.layers)
    for place, unit in enumerate(units):
        wider = _wider(unit, counts[place])
        if not wider:
            continue
        tried = {number: sizes((*counts[:place], number, *counts[place + 1 :])) for number in (counts[place], *wider)}
        base = tried[counts[place]]
        touched = [layer for layer in base if layer in known and len({found[layer] for found in tried.values()}) > 1]
        timing.learn((layer, *found[layer]) for found in tried.values() for layer in touched if all(found[layer]))
        seconds = {
            number: sum(timing.cost(layer, *found[layer]) for layer in touched if all(found[layer]))
            for number, found in tried.items()
        }
        most = (1 + SLACK) * seconds[counts[place]]
        least_pruned = min(number for number, taken in seconds.items() if taken <= most)
        counts = (*counts[:place], least_pruned, *counts[place + 1 :])
    return counts


def _wider(unit: Unit, num_pruned: int) -> list[int]:
    """Smaller numbers of pruned channels that are tried."""
    kept, live = unit.size - num_pruned, unit.size - unit.num_dead
    if not kept:
        return []
    numbers = {
        number for number in range(kept + 1, min(kept + REACH, live) + 1) if number % STEP == 0 or number == live
    }
    found = {unit.prune(unit.size - number) for number in numbers}
    return sorted(number for number in found if number < num_pruned and number % unit.step == 0)
