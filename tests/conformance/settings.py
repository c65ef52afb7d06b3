"""What the checks over all methods must know of one of them; it stands beside the method's own tests.

A module ``tests/methods/test_*.py`` may hold ``CONFORMANCE``: name of a method configuration -> :class:`Conformance`.
A configuration that none of them names has the defaults.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "methods"


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """What is special about one method configuration.

    Attributes:
        options: overrides without which it has nothing to do in two epochs, or does more than the checks need.
        keeps_all: it removes nothing unless it is asked to.
        may_miss: it needs more than two epochs, or channels that weigh less, to reach its target; the result says so.
        closes: its saved net has gates; behind one that is closed for every sample there is no gradient.
    """

    options: tuple[str, ...] = ()
    keeps_all: bool = False
    may_miss: bool = False
    closes: bool = False


@cache
def declared() -> Mapping[str, Conformance]:
    """Method configuration -> what its tests say of it, from all modules in ``tests/methods``."""
    found: dict[str, Conformance] = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"tests.methods.{path.stem}")
        for name, settings in getattr(module, "CONFORMANCE", {}).items():
            assert name not in found, f"{path.name}: another module has said already what is special about {name}"
            found[name] = settings
    return found


def conformance(method: str) -> Conformance:
    """What is special about the configuration ``method``."""
    return declared().get(method, Conformance())
