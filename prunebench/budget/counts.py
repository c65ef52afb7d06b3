"""From ratios to whole numbers of channels. Papers truncate differently, and rounding builds another network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, NonNegativeInt, PositiveInt, Range
from prunebench.errors import UserError, nearest

Count = Callable[[int, float], int]
"""(channels of a layer, prune ratio) -> number of channels to prune; must not fall when the ratio grows."""

# A product of a count and a ratio is an integer up to float noise (100 * 0.29 = 28.999999999999996, which must give
# 29). The noise is below 1e-12 for any layer width; no ratio anybody writes comes as near to an integer by chance.
_NOISE = 1e-9


def prune_floor(num_channels: int, prune_ratio: float) -> int:
    """floor(n * p) channels go: FPGM, soft filter pruning (official code ``int(n * rate)``)."""
    return math.floor(num_channels * prune_ratio + _NOISE)


def keep_floor(num_channels: int, prune_ratio: float) -> int:
    """int(n * (1 - p)) channels stay: Li et al. 2017, whose 64 filters at 30 % become 44 (prune_floor keeps 45)."""
    return num_channels - math.floor(num_channels * (1.0 - prune_ratio) + _NOISE)


def keep_truncated(num_channels: int, prune_ratio: float) -> int:
    """int(n * (1 - p)) in floating point channels stay, noise and all: 160 filters at 90 % become 15 and not 16.

    Some official codes build their nets so, and their published counts belong to those nets.
    """
    return num_channels - int(num_channels * (1.0 - prune_ratio))


def mixed_floor(norm_ratio: float) -> Count:
    """floor(n * norm_ratio) + floor(n * (p - norm_ratio)) channels go: the two floors of FPGM-mix.

    Can be one less than floor(n * p). Up to ``norm_ratio`` all go by norm.
    """

    def count(num_channels: int, prune_ratio: float) -> int:
        by_norm = prune_floor(num_channels, min(prune_ratio, norm_ratio))
        return by_norm + prune_floor(num_channels, max(prune_ratio - norm_ratio, 0.0))

    return count


COUNTS: Mapping[str, Count] = {
    "prune_floor": prune_floor,
    "keep_floor": keep_floor,
    "keep_truncated": keep_truncated,
}
CountName = Annotated[str, Among(COUNTS)]
PruneRatio = Annotated[float, Range(low=0, below=1, meaning="the share that goes")]


@validated
def ratio_table(ratios: Mapping[str, PruneRatio], names: Iterable[str]) -> dict[str, float]:
    """The ratio of each layer from a table of exact names or globs; the first match wins, no match is left out.

    Args:
        ratios: pattern -> prune ratio.
        names: the layers that are to be pruned.

    Raises:
        UserError: a pattern matches none of them, or a ratio is outside [0, 1).
    """
    names = list(names)
    for pattern in ratios:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"the ratio table names '{pattern}', which matches none of the {len(names)} layers to prune"
                f"{nearest(pattern, names)}"
            )
    matched = {
        name: [float(ratio) for pattern, ratio in ratios.items() if fnmatchcase(name, pattern)] for name in names
    }
    return {name: found[0] for name, found in matched.items() if found}


def step_ratio(prune_ratio: float, fraction: float) -> float:
    """The ratio after ``fraction`` of an iterative schedule: 1 - (1 - p)^fraction, equal shares of what is left."""
    return prune_ratio if fraction == 1.0 else 1.0 - (1.0 - prune_ratio) ** fraction


@validated
@dataclass(frozen=True)
class Floor:
    """What stays of a layer whatever the ranking says.

    Attributes:
        min_channels: so many at least; 0 lets a layer vanish.
        protect: at least this share of the layer's channels, in [0, 1].
        round_to: the number kept is rounded up to a multiple of it.

    Raises:
        UserError: a value out of its range.
    """

    min_channels: NonNegativeInt = 1
    protect: Fraction = 0.0
    round_to: PositiveInt = 1

    def keep(self, num_channels: int, num_wanted: int) -> int:
        """How many of ``num_channels`` stay when ``num_wanted`` should."""
        least = max(self.min_channels, math.ceil(num_channels * self.protect - _NOISE))
        kept = max(num_wanted, least)
        return min(-(-kept // self.round_to) * self.round_to, num_channels)  # up: below would break the floor

    def at_least(self, num_channels: int) -> Floor:
        """The same where no fewer than ``num_channels`` may stay."""
        return replace(self, min_channels=max(self.min_channels, num_channels))

    def __str__(self) -> str:
        return f"min_channels={self.min_channels}, protect={self.protect:g}, round_to={self.round_to}"
