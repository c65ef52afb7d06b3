"""From what layers cost to tables: what each width of each unit is worth, and what the layers cost that depend on it.

Keeping c channels of a unit is worth the sum of its c best scores, or what somebody has measured, and costs what the
layers cost that write or read them: time, MACs or weights. Channels that cost nothing are kept: on a machine, up to a
step of its processor. Where more than two units feed one layer (concatenations), their savings count as if each were
alone. :mod:`prunebench.budget.allocation` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from prunebench.budget.allocation import Allocation, Factor, Table
from prunebench.budget.allotments import Counts
from prunebench.budget.ranked import Unit
from prunebench.surgery.computed import Sizes
from prunebench.surgery.plan import Plan

STEPS = 8  # widths of a layer that are looked at, at equal distances, beside its floor


class Price(Protocol):
    """What the layers of a net cost in each size: seconds, or a count."""

    @property
    def layers(self) -> Iterable[str]:
        """Those whose cost is known."""

    @property
    def dense_cost(self) -> float:
        """Of the whole dense net."""

    def learn(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Find out (layer, features read, features written) together, where they are not known."""

    def cost(self, layer: str, reads: int, writes: int) -> float:
        """Of one layer alone."""


class Timing(Price, Protocol):
    """What the time of a net is made of, in seconds."""

    def sizes(self, plan: Plan) -> Sizes:
        """In which the layers of the small net compute."""

    def share(self, plan: Plan) -> float:
        """Time of the small net as a share of the dense one's, both measured."""

    def facts(self) -> dict[str, Any]:
        """What was timed where."""


def allocation(
    units: Sequence[Unit],
    sizes: Callable[[Counts], Sizes],
    price: Price,
    value: Callable[[Counts], float] | None = None,
) -> Allocation:
    """What each unit may keep, and what that costs.

    Args:
        units: what shares a keep-set.
        sizes: counts of pruned channels -> sizes in which the small net computes.
        value: counts -> what the net with these widths is worth, for one unit cut at a time; None = the scores say it.
        price: what no layer's cost says is the dense net's less the sum of its layers.
    """
    kept = [numbers_kept(unit) for unit in units]
    most = tuple(unit.size - options[-1] for unit, options in zip(units, kept, strict=True))
    base = sizes(most)
    effects = [_Effect.of(place, unit, kept[place], most, base, sizes) for place, unit in enumerate(units)]
    widths = {}
    for layer in price.layers:
        if layer in base:
            scope = tuple(place for place, effect in enumerate(effects) if effect.touches(layer))
            widths[layer] = _Widths(layer, scope, kept, base[layer], effects)
    price.learn((layer, *size) for layer, width in widths.items() for size in width.all() if all(size))
    tables = [(width, factor) for width in widths.values() for factor in width.factors(price)]
    fixed = sum(float(factor.table) for _, factor in tables if not factor.units)
    factors = [factor for _, factor in tables if factor.units]
    whole = fixed + sum(float(factor.table[(-1,) * factor.table.ndim]) for factor in factors)
    dense = price.dense_cost
    if whole > dense:  # a layer alone can be slower than in the net
        factors = [Factor(units=factor.units, table=factor.table * dense / whole) for factor in factors]
        fixed, whole = fixed * dense / whole, dense
    return Allocation(
        kept=kept,
        worth=[
            _worth(unit, options)
            if value is None
            else np.maximum.accumulate([value(_one_cut(most, place, unit.size - number)) for number in options])
            for place, (unit, options) in enumerate(zip(units, kept, strict=True))
        ],
        factors=factors,
        fixed=fixed + dense - whole,
        dense=dense,
    )


@dataclass(frozen=True)
class _Effect:
    """What one unit does to the sizes of layers.

    Attributes:
        slopes: layer -> features read and written less with each channel less.
        gone: layers that vanish with the last channel.
    """

    slopes: dict[str, tuple[float, float]]
    gone: frozenset[str]

    @classmethod
    def of(
        cls,
        place: int,
        unit: Unit,
        kept: Sequence[int],
        most: Counts,
        base: Sizes,
        sizes: Callable[[Counts], Sizes],
    ) -> _Effect:
        """Found by cutting that unit alone."""

        def cut(number: int) -> Sizes:
            return sizes(_one_cut(most, place, unit.size - number))

        some = [number for number in kept[:-1] if number]
        slopes: dict[str, tuple[float, float]] = {}
        if some:
            less, small = kept[-1] - some[0], cut(some[0])
            for layer, (reads, writes) in base.items():
                if small[layer] != (reads, writes):
                    slopes[layer] = ((reads - small[layer][0]) / less, (writes - small[layer][1]) / less)
        empty = cut(0) if kept[0] == 0 else base
        return cls(slopes, frozenset(layer for layer, size in empty.items() if not all(size) and all(base[layer])))

    def touches(self, layer: str) -> bool:
        """Whether it changes the layer's size."""
        return layer in self.slopes or layer in self.gone


@dataclass(frozen=True)
class _Widths:
    """The sizes of one layer under the options of the units in ``scope``."""

    layer: str
    scope: tuple[int, ...]
    kept: Sequence[Sequence[int]]
    base: tuple[int, int]
    effects: Sequence[_Effect]

    def size(self, options: dict[int, int]) -> tuple[int, int]:
        """With the options of some units, the others at their widest."""
        reads, writes = map(float, self.base)
        for place, option in options.items():
            number, effect = self.kept[place][option], self.effects[place]
            if number == 0 and self.layer in effect.gone:
                return 0, 0
            less = self.kept[place][-1] - number
            slope = effect.slopes.get(self.layer, (0.0, 0.0))
            reads, writes = reads - less * slope[0], writes - less * slope[1]
        return max(0, round(reads)), max(0, round(writes))

    def groups(self) -> list[tuple[int, ...]]:
        """The units that are looked at together: two at most."""
        return [self.scope] if len(self.scope) <= 2 else [(place,) for place in self.scope]

    def _indices(self, group: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        return product(*(range(len(self.kept[place])) for place in group))

    def all(self) -> set[tuple[int, int]]:
        """All sizes that are looked at."""
        return {
            self.size(dict(zip(group, index, strict=True))) for group in self.groups() for index in self._indices(group)
        }

    def factors(self, price: Price) -> Iterable[Factor]:
        """Cost by options; never less for more channels, since those could be kept at that price."""
        most = price.cost(self.layer, *self.base)
        for number, group in enumerate(self.groups()):
            table = np.empty([len(self.kept[place]) for place in group])
            for index in self._indices(group):
                table[index] = price.cost(self.layer, *self.size(dict(zip(group, index, strict=True))))
            for axis in range(table.ndim):
                table = np.flip(np.minimum.accumulate(np.flip(table, axis), axis), axis)
            yield Factor(units=group, table=table if number == 0 else table - most)


def numbers_kept(unit: Unit) -> list[int]:
    """Numbers of channels that may stay, ascending: steps of the width between the floor and what is still live."""
    steps = {unit.size - step * unit.size // STEPS for step in range(STEPS + 1)}
    kept = {unit.size - unit.prune(pruned) for pruned in (unit.num_dead, *steps)}
    return sorted(number for number in kept if number <= unit.size - unit.prune(unit.num_dead))


def _worth(unit: Unit, kept: Sequence[int]) -> Table:
    best = np.cumsum([0.0, *reversed([max(score, 0.0) for score in unit.scores])])
    return best[list(kept)]


def _one_cut(most: Counts, place: int, pruned: int) -> Counts:
    return (*most[:place], pruned, *most[place + 1 :])
