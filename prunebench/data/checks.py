"""Range checks of what a user may set under ``dataset``: YAML values have no types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunebench.errors import UserError, nearest


def whole(key: str, value: object, *, low: int, high: int | None = None) -> int:
    """``value`` if it is a whole number of at least ``low`` (and at most ``high``), else UserError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        top = "" if high is None else f" and at most {high}"
        raise UserError(f"dataset.{key} must be a whole number of at least {low}{top}, got {value!r}")
    return value


def fractions(key: str, values: object, *, num: int, low: float) -> list[float]:
    """``values`` if they are ``num`` numbers from ``low`` to 1, one per channel, else UserError."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != num:
        raise UserError(f"dataset.{key} must be a list of {num} numbers, one per channel, got {values!r}")
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= 1:
            raise UserError(
                f"dataset.{key} holds fractions of full brightness from {low:g} to 1, got {value!r}; "
                "divide values on the scale 0 to 255 by 255"
            )
    return [float(value) for value in values]


def truth(key: str, value: object) -> bool:
    """``value`` if it is true or false, else UserError."""
    if not isinstance(value, bool):
        raise UserError(f"dataset.{key} must be true or false, got {value!r}")
    return value


def known_keys(key: str, given: object, allowed: Sequence[str]) -> Mapping[str, Any]:
    """``given`` if it is a mapping with exactly the ``allowed`` keys, else UserError."""
    if not isinstance(given, Mapping):
        raise UserError(f"dataset.{key} must have the keys {', '.join(allowed)}, got {given!r}")
    for name in given:
        if name not in allowed:
            hint = nearest(str(name), allowed)
            raise UserError(f"dataset.{key}.{name} is unknown; allowed: {', '.join(allowed)}{hint}")
    for name in allowed:
        if name not in given:
            raise UserError(f"dataset.{key}.{name} is missing; {key} needs: {', '.join(allowed)}")
    return given


@dataclass(frozen=True)
class Augment:
    """How training pictures of a set in memory are varied.

    Attributes:
        crop: black pixels added on each side before a random window of the old size is cut, 0 = no crop.
        flip: mirror left to right with probability one half.
    """

    crop: int
    flip: bool

    @classmethod
    def parse(cls, given: object, *, size: int) -> Augment:
        """From the mapping ``dataset.augment``; UserError on unknown keys and values out of range."""
        keys = known_keys("augment", given, ("crop", "flip"))
        return cls(
            crop=whole("augment.crop", keys["crop"], low=0, high=size),
            flip=truth("augment.flip", keys["flip"]),
        )
