"""Values against the annotations of what they are given to: types, and the ranges of :mod:`prunebench.config.ranges`.

YAML has no types: ``method.target_macs=half`` arrives as text. So the builder of configurations holds each option
against the annotation that the code has anyway, and ``validated`` does the same where code calls directly.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

from prunebench.config.ranges import Among, Range
from prunebench.errors import UserError, nearest

MAX_SHOWN = 200
"""Characters of a wrong value that a message shows."""

Called = TypeVar("Called", bound=Callable[..., Any])

_DATA = (str, int, float, list, tuple, Mapping, type(None))
"""What a configuration consists of."""
_WORDS = {  # one, many
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    type(None): ("null", "nulls"),
}


def fitted(
    target: Callable[..., Any], given: Mapping[str, Any], *, where: str, unbuilt: Collection[str] = ()
) -> dict[str, Any]:
    """``given`` as keyword arguments of ``target``, each as :func:`fit` returns it.

    Args:
        target: a class or function with annotations; what a constructor takes as ``**rest`` is its parent's.
        where: the place in the configuration, for example ``method``.
        unbuilt: those that are still settings of an object; whether it is the right one is seen when it is built.

    Raises:
        UserError: an argument is unknown or missing, or its value does not fit.
    """
    known, needed, closed = _parameters(target)
    for name in given:
        if closed and name not in known:
            allowed = f"it can be {', '.join(known)}" if known else f"{where} has no options"
            raise UserError(f"{where}.{name} is unknown; {allowed}{nearest(name, known)}")
    for name in needed:
        if name not in given:
            raise UserError(f"{where}.{name} must be given")
    hints = {name: Any if name in unbuilt else known.get(name, Any) for name in given}
    return {name: fit(value, hints[name], f"{where}.{name}") for name, value in given.items()}


def fit(value: Any, hint: Any, where: str) -> Any:
    """``value``, if it is what the annotation ``hint`` says.

    A number where text is wanted becomes text (``folder=2012``), a table where a dataclass is wanted becomes one.
    Annotations other than plain types, containers, classes and functions are not checked.

    Raises:
        UserError: one sentence: ``where``, what is allowed, and the value.
    """
    kinds = _alternatives(hint)
    for kind in kinds if isinstance(value, Mapping) else ():
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            return kind(**fitted(kind, value, where=where))
        if _shape(kind) == "table" and (items := typing.get_args(kind)[1:]):
            return {key: fit(item, items[0], f"{where}.{key}") for key, item in value.items()}
    if any(_is(value, kind) for kind in kinds):
        return value
    if str in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where} must be {' or '.join(map(_phrase, kinds))}, got {_shown(value)}{_advice(value, kinds)}")


def validated(target: Called) -> Called:
    """A class or function that refuses numbers, texts, lists and tables that do not fit its annotations.

    What an object has to be is left to type checkers, as everywhere in Python.
    """
    function: Any = target.__init__ if inspect.isclass(target) else target
    signature = functools.cache(lambda: inspect.signature(function, eval_str=True))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature().bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = signature().parameters[name]
            if _is_named(parameter) and isinstance(value, _DATA):
                bound.arguments[name] = fit(value, _hint(parameter), name)
        return function(*bound.args, **bound.kwargs)

    if not inspect.isclass(target):
        return call  # type: ignore[return-value]
    target.__init__ = call  # type: ignore[method-assign]
    return target


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, Any], list[str], bool]:
    """The annotation of each argument, the arguments without a default, and whether there are no further ones."""
    parents = getattr(target, "__mro__", (object,))[:-1]
    constructors = [vars(kind)["__init__"] for kind in parents if "__init__" in vars(kind)]
    known: dict[str, Any] = {}
    needed: list[str] = []
    for function in constructors or [target]:
        parameters = list(_signature(function).parameters.values())[1 if constructors else 0 :]
        if not known:  # what a parent needs may be what the constructor itself gives it
            needed = [item.name for item in parameters if _is_named(item) and item.default is item.empty]
        known |= {item.name: _hint(item) for item in parameters if _is_named(item) and item.name not in known}
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            return known, needed, True
    return known, needed, False


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return inspect.signature(function)  # foreign code, with a name that only type checkers import


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _hint(parameter: inspect.Parameter) -> Any:
    return Any if parameter.annotation is parameter.empty else parameter.annotation


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _limits(kind: Any) -> list[Range | Among]:
    """What stands beside an annotated type."""
    found = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return [limit for limit in found if isinstance(limit, Range | Among)]


def _shape(kind: Any) -> str:
    """``list``, ``table``, ``function`` or, for all else, an empty text."""
    origin = typing.get_origin(kind) or kind
    if origin is Callable:
        return "function"
    if not inspect.isclass(origin) or origin is str:
        return ""
    if issubclass(origin, list | tuple | Sequence):
        return "list"
    return "table" if issubclass(origin, Mapping) else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _too_large(value: Any) -> bool:
    """Whether torch has no such whole number."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _advice(value: Any, kinds: Sequence[Any]) -> str:
    """The choices that look like a wrong text, or the limit of all whole numbers."""
    if _too_large(value):
        return "; whole numbers have 64 bits"
    choices = [limit.options for kind in kinds for limit in _limits(kind) if isinstance(limit, Among)]
    words = [word for options in choices for word in options if isinstance(word, str)]
    return nearest(value, words) if isinstance(value, str) else ""


def _is(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of ``kind``, which is no union."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        return _is(value, inner[0]) and all(value in limit for limit in _limits(kind))
    if kind is int or kind is float:
        sort = int if kind is int else int | float
        fits = isinstance(value, sort) and not isinstance(value, bool) and value == value  # not NaN
        return fits and not _too_large(value)
    match _shape(kind):
        case "list":
            hints = [option for item in inner if item is not ... for option in _alternatives(item)]
            fits = isinstance(value, list | tuple)
            return fits and (not hints or all(any(_is(item, option) for option in hints) for item in value))
        case "table":
            return isinstance(value, Mapping)
        case "function":
            return callable(value)
    # a protocol has no instances to tell
    return kind is Any or not inspect.isclass(kind) or getattr(kind, "_is_protocol", False) or isinstance(value, kind)


def _phrase(kind: Any, *, many: bool = False) -> str:
    """``kind``, which is no union, in words."""
    inner, limits = typing.get_args(kind), _limits(kind)
    if limits and isinstance(limits[0], Among):
        return str(limits[0])
    if typing.get_origin(kind) is Annotated:
        return _phrase(inner[0], many=many) + "".join(map(str, limits))
    if kind in _WORDS:
        return _WORDS[kind][many]
    if dataclasses.is_dataclass(kind):
        return f"a table with {', '.join(field.name for field in dataclasses.fields(kind))}"
    shape = _shape(kind)
    items = inner[0 if shape == "list" else 1 :][:1] if shape in ("list", "table") else ()
    if items and items[0] is not Any:
        return f"a {shape} of {' or '.join(_phrase(option, many=True) for option in _alternatives(items[0]))}"
    return f"a {shape}" if shape else f"a {getattr(kind, '__name__', kind)} (a group with _target_)"
