"""Which channels stay: the only hand-over between choosing and cutting."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from prunebench.errors import UserError, nearest

Indices = tuple[int, ...]

_FIELDS = ("keep", "inputs")
MAX_INDEX = (1 << 24) - 1
"""No layer has so many channels; sets of channels are numbers of as many bits."""


@dataclass(frozen=True)
class Plan:
    """The channels that stay, always counted in the dense net.

    A layer that is not named keeps all of its channels. An empty set removes the layer, which is possible only
    where an addition or a concatenation bypasses it.

    Attributes:
        keep: layer -> output channels that stay, ascending.
        inputs: reader -> input channels that it still reads, ascending (channel selection). The tensor itself
            keeps its width for its other readers. For a linear layer these are input features.

    Raises:
        UserError: a name that is no text, or indices that are not whole numbers in ascending order from 0.
    """

    keep: Mapping[str, Indices] = field(default_factory=dict)
    inputs: Mapping[str, Indices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, _checked(name, getattr(self, name)))

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces."""
        content = {name: {layer: list(kept) for layer, kept in getattr(self, name).items()} for name in _FIELDS}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            UserError: not JSON, or not of this form.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, a list in a list in a list
            raise UserError(f"a plan must be JSON, but {error}; was the file cut short?") from error
        if not isinstance(content, dict) or not set(content) <= set(_FIELDS) or "keep" not in content:
            found = f"the keys {sorted(content)}" if isinstance(content, dict) else type(content).__name__
            raise UserError(f"a plan is a JSON object with the keys keep and inputs, got {found}")
        return cls(**content)

    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def check_names(plan: Plan, known: Mapping[str, Any]) -> None:
    """Refuse layers that the net does not have.

    Raises:
        UserError: names the layer and the most similar known ones.
    """
    for name in (*plan.keep, *plan.inputs):
        if name not in known:
            raise UserError(f"the plan names '{name}', which is no layer of the net{nearest(name, known)}")


def _checked(what: str, sets: object) -> dict[str, Indices]:
    if not isinstance(sets, Mapping):
        raise UserError(f"{what} of a plan maps layers to channel indices, got {type(sets).__name__}")
    for name in sets:
        if not isinstance(name, str):
            raise UserError(f"{what} of a plan maps names of layers to channel indices, got the key {name!r}")
    return {name: _checked_indices(what, name, indices) for name, indices in sets.items()}


def _checked_indices(what: str, name: str, indices: Any) -> Indices:
    try:
        kept = tuple(operator.index(index) for index in indices)  # takes numpy's integers, refuses fractions and text
        if any(isinstance(index, bool) for index in indices):  # true would be channel 1
            raise TypeError
    except TypeError:
        raise UserError(f"{what}['{name}'] of a plan must be a list of channel indices, got {indices!r:.200}") from None
    if any(index < 0 for index in kept) or any(a >= b for a, b in pairwise(kept)):
        raise UserError(f"{what}['{name}'] must be ascending indices from 0, each once, got {list(kept)!r:.200}")
    if kept and kept[-1] > MAX_INDEX:
        raise UserError(f"{what}['{name}'] must be indices of channels, at most {MAX_INDEX:,}, got {kept[-1]!r:.50}")
    return kept
