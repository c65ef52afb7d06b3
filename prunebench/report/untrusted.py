"""Reading plain data that somebody else wrote: each accessor names the field that is not what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from prunebench.errors import UserError


def mapping(source: Mapping[str, Any], path: str, *, optional: bool = False) -> Mapping[str, Any]:
    """The object under the last word of ``path``; an absent one is empty if it is ``optional``."""
    value = source.get(path.rpartition(".")[2])
    if value is None and optional:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{path} is {short(value)}, not an object")
    return value


def objects(source: Mapping[str, Any], path: str) -> list[Mapping[str, Any]]:
    """The list of objects under the last word of ``path``; empty if it is absent."""
    value = source.get(path.rpartition(".")[2]) or []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise UserError(f"{path} is {short(value)}, not a list of objects")
    return value


def number(value: Any, path: str) -> float:
    """``value`` as a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{path} is {short(value)}, not a number")
    return value


def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """``(dotted key, scalar)`` of nested objects; lists as JSON text, nulls left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}")
    elif isinstance(value, list):
        yield prefix, json.dumps(value, default=str)
    elif value is not None:
        yield prefix, value


def short(value: Any) -> str:
    """``value`` in at most 60 characters."""
    return "missing" if value is None else repr(value)[:60]
