"""From a dotted path and settings to the object: nets, methods, data sets, criteria, saved nets."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prunebench.config.arguments import MAX_SHOWN, fitted
from prunebench.config.groups import FROM_DATA, NOT_ARGUMENTS
from prunebench.errors import UserError, nearest

TARGET = "_target_"

ROOMS: Mapping[str, tuple[str, ...]] = {
    "model": ("prunebench.models", "torch.nn.modules"),
    "layers": ("prunebench.layers", "prunebench.methods"),
    "dataset": ("prunebench.data",),
    "ood": ("prunebench.data",),
    "quantize": ("prunebench.nets.quantize",),
    "attack": ("prunebench.measure.attacks",),
    "teacher": ("prunebench.core.distilled",),
    "method": ("prunebench.methods", "prunebench.core.method", "prunebench.criteria"),
}
"""Config group -> where all lies that is called for it without trust: public names, nothing that calls others."""
_SHORT = {"torch.nn": "torch.nn.modules"}
"""Module that only passes names on -> where they are defined."""


def find(path: str, *, what: str) -> Callable[..., Any]:
    """Import the object behind ``package.module.name``, which builds ``what``.

    Raises:
        UserError: no such module, or nothing callable of that name in it.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", str(path)):
        raise UserError(f"{str(path)[:MAX_SHOWN]!r} is no dotted path like package.module.function")
    module_name, _, name = str(path).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{module_name}, which builds {what}, cannot be imported ({error}); install it, or start Python "
            "in the folder that holds it"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{module_name}, which builds {what}, cannot be imported: {_reason(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module_name} has no function or class {name!r}{nearest(name, vars(module))}")
    return found  # type: ignore[no-any-return]


def arguments(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config group that its target gets; a foreign net need not know the facts of a data set."""
    left_out = (TARGET, *NOT_ARGUMENTS.get(group, ()))
    given = {key: value for key, value in settings.items() if key not in left_out}
    if group not in FROM_DATA:
        return given
    parameters = inspect.signature(find(settings[TARGET], what=group)).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {key: value for key, value in given.items() if takes_all or key in parameters or key not in FROM_DATA[group]}


def check(where: str, settings: Mapping[str, Any]) -> None:
    """Hold ``settings`` against the annotations of their target, and theirs inside; nothing is called.

    Raises:
        UserError: there is no target, or a value does not fit.
    """
    if not isinstance(settings, Mapping) or TARGET not in settings:
        raise UserError(f"{where}.{TARGET} must be given")
    target = find(settings[TARGET], what=where)
    given = arguments(where, settings)
    inner = {key: value for key, value in given.items() if isinstance(value, Mapping) and TARGET in value}
    for key, value in inner.items():
        check(f"{where}.{key}", value)
    fitted(target, given, where=where, unbuilt=inner)


def build(where: str, settings: Mapping[str, Any], *, expects: type = object, trust: bool = True) -> Any:
    """Call the target of ``settings`` with the other settings; values that have a target themselves are built first.

    Args:
        where: the config group, or the place below it; errors name it.
        settings: ``_target_`` and arguments.
        expects: what must come out.
        trust: also call a target that does not lie in the ``ROOMS`` of the group, or is not known to give ``expects``.

    Raises:
        UserError: the target is unknown or not trusted, a value is refused, or something else comes out.
    """
    if TARGET not in settings:
        raise UserError(f"{where}.{TARGET} must be given")
    path = settings[TARGET]
    target = find(path, what=where) if trust else _find_known(path, where, expects)
    given = {
        key: build(f"{where}.{key}", value, trust=trust) if isinstance(value, Mapping) and TARGET in value else value
        for key, value in arguments(where, settings).items()
    }
    made = _call(target, fitted(target, given, where=where), f"{where}={settings.get('name', path)}")
    if not isinstance(made, expects):
        raise UserError(f"{path} gave a {type(made).__name__}, not a {_public_name(expects)}")
    return made


def _public_name(kind: type) -> str:
    """``torch.nn.Module`` for a class that lies in ``torch.nn.modules.module``."""
    parts = kind.__module__.split(".")
    places = [".".join(parts[: num + 1]) for num in range(len(parts))]
    return next(f"{p}.{kind.__name__}" for p in places if getattr(sys.modules[p], kind.__name__, None) is kind)


def _call(target: Callable[..., Any], given: Mapping[str, Any], what: str) -> Any:
    try:
        return target(**given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} cannot be built: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why somebody's code has failed, and where; a program that ends there gives no reason of its own."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = "" if isinstance(error, SystemExit) else str(error).strip().partition("\n")[0]
    return f"{reason or type(error).__name__} ({last.filename}:{last.lineno})"


def _find_known(path: Any, where: str, expects: type) -> Callable[..., Any]:
    """The target ``path``, if its place says that it may be called; nothing is imported from elsewhere.

    Raises:
        UserError: it is not in the group's ``ROOMS``, is private or only passed on there, or gives something else.
    """
    rooms = ROOMS[where.partition(".")[0]]
    module, _, name = str(path).rpartition(".")
    if _inside(_SHORT.get(module, module), rooms) and not name.startswith("_"):
        found = find(path, what=where)
        if _inside(getattr(found, "__module__", None) or "", rooms) and _gives(found, expects):
            return found
    kind = "classes" if expects is object else f"classes and functions that give a {_public_name(expects)}"
    raise UserError(
        f"{str(path)[:MAX_SHOWN]} is not called for {where}: without trust only public {kind} are, of "
        f"{' and '.join(rooms)}; give trust=True (--trust to a script) if you know what it does"
    )


def _inside(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _gives(target: Callable[..., Any], expects: type) -> bool:
    """Whether a class or the annotation of a function says that ``expects`` comes out; of a function, more than any."""
    if inspect.isclass(target):
        return issubclass(target, expects)
    if expects is object:
        return False
    answer = getattr(target, "__annotations__", {}).get("return")
    if isinstance(answer, str):  # postponed: look the name up where the function was written, evaluate nothing
        first, *rest = answer.strip("'\"").split(".")
        answer = getattr(inspect.unwrap(target), "__globals__", {}).get(first)
        for name in rest:
            answer = getattr(answer, name, None)
    return inspect.isclass(answer) and issubclass(answer, expects)
