"""What values an option may take, said where its type is said: ``penalty: NonNegativeFloat``.

The annotations of a constructor are all that is written about its options one by one; ``prunebench.config.arguments``
holds values against them and makes the sentence. A condition on two options stays in the constructor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class Range:
    """Finite numbers between bounds; ``low`` and ``high`` belong to it, ``above`` and ``below`` do not.

    Attributes:
        meaning: what the number says, where the name of the option does not.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    meaning: str = ""

    def __contains__(self, value: float) -> bool:
        finite = abs(value) <= sys.float_info.max
        return finite and self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        lower, upper = max(self.low, self.above), min(self.high, self.below)
        without_lower, without_upper = self.low < lower, self.high > upper
        first, last = (f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in (lower, upper))
        words = ""
        if math.isfinite(lower) and math.isfinite(upper):
            words = f" in {'(' if without_lower else '['}{first}, {last}{')' if without_upper else ']'}"
        elif math.isfinite(lower):
            words = f" {'above' if without_lower else 'of at least'} {first}"
        elif math.isfinite(upper):
            words = f" {'below' if without_upper else 'of at most'} {last}"
        return words + (f" ({self.meaning})" if self.meaning else "")


@dataclass(frozen=True, eq=False)  # hashed by identity, as unions need it: a table has no hash
class Among:
    """One of some words or numbers; of a table, one of its keys."""

    options: Collection[str] | Collection[int]

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def __str__(self) -> str:
        return f"{'one of ' if len(self.options) > 1 else ''}{', '.join(map(str, self.options))}"


PositiveInt = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
FiniteFloat = Annotated[float, Range()]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
FractionBelowOne = Annotated[float, Range(low=0, below=1)]
PositiveFraction = Annotated[float, Range(above=0, high=1)]
OpenFraction = Annotated[float, Range(above=0, below=1)]
PhaseShare = Annotated[float, Range(low=0, high=1, meaning="a share of the phase")]
