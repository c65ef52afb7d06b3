"""Values of a configuration against the annotations of what they are given to.

YAML has no types: ``method.target_macs=half`` arrives as text. Each option is checked once, here, by the annotation
that the code has anyway; constructors check ranges.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

from prunebench.errors import UserError, nearest

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_MANY = {bool: "truth values", int: "whole numbers", float: "numbers", str: "texts"}


def fitted(target: Callable[..., Any], given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """``given`` as keyword arguments of ``target``; a number where text is wanted becomes text (``folder=2012``).

    An annotation that is neither a plain type nor a container of such is not checked.

    Args:
        target: a class or function with annotations.
        where: the place in the configuration, for example ``method``.

    Raises:
        UserError: an argument is unknown or missing, or its value has another type.
    """
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for name in given:
            if name not in parameters:
                raise UserError(
                    f"{where}.{name} is unknown; it can be {', '.join(parameters)}{nearest(name, parameters)}"
                )
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY and name not in given:
                raise UserError(f"{where}.{name} must be given")
    hints = _hints(target)
    return {name: _fit(value, hints.get(name, Any), f"{where}.{name}") for name, value in given.items()}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}  # a name that only type checkers import


def _fit(value: Any, hint: Any, where: str) -> Any:
    """``value`` in the type ``hint``."""
    allowed = _alternatives(hint)
    for kind in allowed:
        if _is(value, kind):
            return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and str in allowed:
        return str(value)
    raise UserError(f"{where} must be {_described(allowed)}, got {value!r}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:  # a class since Python 3.11
        return True
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if _is_list(origin):
        items = [item for item in inner if item is not ...]
        return isinstance(value, list | tuple) and all(_any(item, items) for item in value)
    if _is_table(origin):
        return isinstance(value, Mapping) and all(_any(item, inner[1:]) for item in value.values())
    if inspect.isclass(kind):
        # an object of the code: in a configuration a group with what builds it
        return isinstance(value, kind) or (isinstance(value, Mapping) and "_target_" in value)
    return True


def _any(value: Any, hints: Sequence[Any]) -> bool:
    return not hints or any(_is(value, kind) for hint in hints for kind in _alternatives(hint))


def _is_list(origin: Any) -> bool:
    return inspect.isclass(origin) and origin is not str and issubclass(origin, list | tuple | Sequence)


def _is_table(origin: Any) -> bool:
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def _described(kinds: Iterable[Any]) -> str:
    words = []
    for kind in kinds:
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if kind in _WORDS:
            words.append(_WORDS[kind])
        elif _is_list(origin) or _is_table(origin):
            shape, items = ("list", inner[:1]) if _is_list(origin) else ("table", inner[1:])
            words.append(f"a {shape} of {_MANY[items[0]]}" if items and items[0] in _MANY else f"a {shape}")
        else:
            words.append("a group with _target_")
    return " or ".join(words)
