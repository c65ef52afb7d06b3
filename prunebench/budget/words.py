"""How much the layers of a net keep, in words that stay short in a deep net."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

MANY = 4
"""So many layers in a row that keep the same are said together."""


def in_words(kept: Iterable[tuple[str, int, int]]) -> str:
    """``(name, kept, of)`` of each layer -> ``stem 3/4, conv1 to conv9 10/16 (9 layers)``.

    Args:
        kept: in the order of execution.
    """
    said = []
    for (number, whole), group in groupby(kept, key=lambda layer: layer[1:]):
        names = [name for name, _, _ in group]
        if len(names) < MANY:
            said += [f"{name} {number}/{whole}" for name in names]
        else:
            said.append(f"{names[0]} to {names[-1]} {number}/{whole} ({len(names)} layers)")
    return ", ".join(said)
