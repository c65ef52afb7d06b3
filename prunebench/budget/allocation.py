"""The widths that are worth most in a given time, once their worth and the time of each layer are known as tables.

Where each layer depends on one unit (blocks with a fixed stream) the choice is a knapsack over finely divided time; in
chains and blocks with a common stream it is the exact optimum for a price of time, found by bisection on that price.
What is left of the time is then filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 4000  # of the time that a knapsack divides
PRICES = 40  # halvings of the interval of prices
TABLE = 200_000  # entries of the largest table that an elimination may make

Table = NDArray[np.float64]


class OutOfReach(Exception):  # whoever asks makes a sentence of it
    """The smallest share that can be reached, ``least``, is above the goal."""

    def __init__(self, least: float) -> None:
        super().__init__(f"at least {least:g}")
        self.least = least


@dataclass(frozen=True, kw_only=True)
class Factor:
    """Seconds of one layer by the options of the units that its width depends on.

    Attributes:
        units: places of these units, ascending.
        table: one axis for each of them; along no axis it falls when more is kept.
    """

    units: tuple[int, ...]
    table: Table


@dataclass(kw_only=True)
class Allocation:
    """The options of each unit, what they are worth and what they cost.

    Attributes:
        kept: of each unit the numbers of channels that may stay, ascending.
        worth: of each of them the sum of the scores that stay, or what was measured; it does not fall.
        factors: the layers whose time some option changes.
        fixed: seconds of everything else.
        dense: seconds of the whole dense net.
    """

    kept: Sequence[Sequence[int]]
    worth: Sequence[Table]
    factors: Sequence[Factor]
    fixed: float
    dense: float
    _of: list[list[Factor]] = field(init=False)

    def __post_init__(self) -> None:
        self._of = [[factor for factor in self.factors if place in factor.units] for place in range(len(self.kept))]

    @property
    def least(self) -> float:
        """The smallest share that can be reached."""
        return self.share([0] * len(self.kept))

    def share(self, options: Sequence[int]) -> float:
        """Predicted time as a share of the dense net's."""
        return (self.fixed + sum(_at(factor, options) for factor in self.factors)) / self.dense

    def value(self, options: Sequence[int]) -> float:
        """Sum of what the units are worth."""
        return float(sum(worth[option] for worth, option in zip(self.worth, options, strict=True)))

    def solve(self, goal: float) -> list[int]:
        """The options that are worth most in the share ``goal`` of the dense time, one for each unit.

        Raises:
            OutOfReach: the smallest options cost more.
        """
        least = [0] * len(self.kept)
        most = [len(kept) - 1 for kept in self.kept]
        if self.share(most) <= goal:
            return most
        if self.least > goal:
            raise OutOfReach(self.least)
        if all(len(factor.units) <= 1 for factor in self.factors):
            return self._filled(self._knapsack(goal), goal)
        return self._by_price(goal, least, most)

    def _knapsack(self, goal: float) -> list[int]:
        """Exact up to one part in ``BINS`` for each unit."""
        times = [
            sum((factor.table for factor in own), np.zeros(len(kept)))
            for own, kept in zip(self._of, self.kept, strict=True)
        ]
        least = np.array([time[0] for time in times])
        # a goal at the least share leaves no time at all, but for rounding; only what costs nothing fits then
        room = max(goal * self.dense - self.fixed - float(least.sum()), 1e-12 * self.dense)
        best, came = np.zeros(BINS + 1), []
        for time, worth in zip(times, self.worth, strict=True):
            needed = np.minimum(np.ceil((time - time[0]) / room * BINS - 1e-9), BINS + 1).astype(int)
            tried = np.full((len(time), BINS + 1), -np.inf)
            for option, bins in enumerate(needed):
                if bins <= BINS:
                    tried[option, bins:] = best[: BINS + 1 - bins] + worth[option]
            came.append((tried.argmax(axis=0), needed))
            best = tried.max(axis=0)
        options, left = [], BINS
        for choice, needed in reversed(came):
            options.append(int(choice[left]))
            left -= int(needed[options[-1]])
        return options[::-1]

    def _by_price(self, goal: float, least: list[int], most: list[int]) -> list[int]:
        """At the lowest price of time at which the net is quick enough, or from just below that price downwards."""
        # a worth may be below 0 (minus a loss): only differences count
        scale = max(self.value(most) - self.value(least), 1e-12) / self.dense
        low, high, found, slower = scale * 1e-4, scale * 1e4, least, most
        for _ in range(PRICES):
            price = float(np.sqrt(low * high))
            options = self._at_price(price)
            if self.share(options) <= goal:
                high, found = price, options
            else:
                low, slower = price, options
        tried = (self._filled(found, goal), self._filled(self._lowered(slower, goal), goal))
        return max(tried, key=self.value)

    def _at_price(self, price: float) -> list[int]:
        own = [Factor(units=(place,), table=-worth) for place, worth in enumerate(self.worth)]
        paid = [Factor(units=factor.units, table=price * factor.table) for factor in self.factors]
        return eliminate([len(kept) for kept in self.kept], [*own, *paid])

    def _lowered(self, options: Sequence[int], goal: float) -> list[int]:
        """Fewer channels where least is lost for the time, until the net is quick enough."""
        options = list(options)
        while (now := self.share(options)) > goal:
            changes = []
            for place in range(len(options)):
                along = self._along(place, options) / self.dense
                for option in range(options[place]):
                    lost = float(self.worth[place][options[place]] - self.worth[place][option])
                    saved = min(float(along[options[place]] - along[option]), now - goal)  # more is of no use
                    if saved > 0:
                        changes.append((lost / saved, place, option))
            if not changes:  # no single unit saves anything here
                return [0] * len(options)
            _, place, option = min(changes)
            options[place] = option
        return options

    def _along(self, place: int, options: Sequence[int]) -> Table:
        """Seconds of the layers that depend on a unit, by its option."""
        total = np.zeros(len(self.kept[place]))
        for factor in self._of[place]:
            index = tuple(slice(None) if unit == place else options[unit] for unit in factor.units)
            total += factor.table[index]
        return total

    def _filled(self, options: Sequence[int], goal: float) -> list[int]:
        """More channels, as long as they are worth something and there is time."""
        options = list(options)
        now = self.share(options)
        while True:
            changes = []
            for place in range(len(options)):
                along = self._along(place, options) / self.dense
                gains = self.worth[place] - self.worth[place][options[place]]
                changes += [
                    (float(gains[option]), float(along[option] - along[options[place]]), place, option)
                    for option in range(options[place] + 1, len(gains))
                ]
            fitting = [change for change in changes if now + change[1] <= goal and change[0] > 0]
            if not fitting:
                return options
            # what costs nothing first, then what is worth most for its time
            _, _, place, option = max(fitting, key=lambda change: change[0] / max(change[1], 1e-9))
            options[place] = option
            now = self.share(options)


def eliminate(sizes: Sequence[int], factors: Sequence[Factor]) -> list[int]:
    """The options with the least sum of ``factors``, one for each unit.

    One unit after the other is minimised away, that first whose neighbours have the fewest combinations. Should a table
    grow beyond :data:`TABLE` entries, the factors of several units count as :func:`added_up`.
    """
    waiting, left, taken = set(range(len(sizes))), list(factors), []
    while waiting:
        around = {place: _neighbours(place, left) for place in waiting}
        place = min(waiting, key=lambda unit: (float(np.prod([float(sizes[other]) for other in around[unit]])), unit))
        if np.prod([float(sizes[other]) for other in around[place]]) > TABLE:
            return eliminate(sizes, [part for factor in factors for part in added_up(factor)])
        scope = around[place]
        joined = sum((_spread(f, scope) for f in left if place in f.units), np.zeros((1,) * len(scope)))
        joined = np.broadcast_to(joined, [sizes[other] for other in scope])
        axis = scope.index(place)
        rest = tuple(other for other in scope if other != place)
        # of equal options the widest
        best = joined.shape[axis] - 1 - np.flip(joined, axis).argmin(axis=axis)
        taken.append((place, rest, best))
        left = [factor for factor in left if place not in factor.units]
        left.append(Factor(units=rest, table=joined.min(axis=axis)))
        waiting.remove(place)
    options = [0] * len(sizes)
    for place, rest, best in reversed(taken):
        options[place] = int(best[tuple(options[other] for other in rest)])
    return options


def added_up(factor: Factor) -> list[Factor]:
    """Factors of one unit each, as if what one saves did not depend on the others: at their widest options."""
    if len(factor.units) <= 1:
        return [factor]
    most = float(factor.table[(-1,) * factor.table.ndim])
    lines = [np.moveaxis(factor.table, axis, -1)[(-1,) * (factor.table.ndim - 1)] for axis in range(factor.table.ndim)]
    parts = [Factor(units=(place,), table=line - most) for place, line in zip(factor.units, lines, strict=True)]
    parts[0] = Factor(units=parts[0].units, table=parts[0].table + most)
    return parts


def _at(factor: Factor, options: Sequence[int]) -> float:
    return float(factor.table[tuple(options[place] for place in factor.units)])


def _neighbours(place: int, factors: Sequence[Factor]) -> tuple[int, ...]:
    return tuple(sorted({place, *(other for f in factors if place in f.units for other in f.units)}))


def _spread(factor: Factor, scope: Sequence[int]) -> Table:
    """The table with an axis for each unit of ``scope``."""
    return factor.table.reshape([factor.table.shape[factor.units.index(u)] if u in factor.units else 1 for u in scope])
