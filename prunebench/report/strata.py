"""What a method may cut: only methods that may cut the same are compared, or its layers would pass for its merit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("layers", "coupling", "scope")
"""Settings of a method that say which channels it may take, whatever it values them by: which layers, whether layers
of an addition lose the same ones, whether the layers share one threshold."""
UNSET = "none"
Stratum = tuple[Any, ...]


def stratum(settings: Mapping[str, Any]) -> Stratum:
    """The values of :data:`KEYS` in the flat ``settings`` of a run; None for a key that its method does not have."""
    return tuple(settings.get(f"method.{key}") for key in KEYS)


def difference(one: Stratum, other: Stratum) -> str:
    """``layers interior against all, scope layer against global``; empty if the two are one stratum."""
    pairs = zip(KEYS, one, other, strict=True)
    return ", ".join(f"{key} {_word(a)} against {_word(b)}" for key, a, b in pairs if a != b)


def distinction(own: Stratum, others: set[Stratum]) -> str:
    """Of ``own`` what is not so in all of the ``others``, for a name: ``layers all``; empty if nothing is."""
    differ = [i for i in range(len(KEYS)) if any(other[i] != own[i] for other in others)]
    return ", ".join(f"{KEYS[i]} {_word(own[i])}" for i in differ)


def _word(value: Any) -> str:
    return UNSET if value is None else str(value)
