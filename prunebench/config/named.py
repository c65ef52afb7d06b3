"""The function or class behind a dotted path that builds a net, and what it may be called with."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from prunebench.errors import UserError, nearest

# keys of a model config that its target does not get
NO_ARGUMENTS = ("name", "pretrained", "pretrained_sha256", "recipe")
FROM_DATA = ("num_classes", "in_channels", "image_size")  # facts of the data set, passed only to a net that takes them


def find(path: str, *, what: str = "the net") -> Callable[..., Any]:
    """Import the object behind ``package.module.name``, which builds ``what``.

    Raises:
        UserError: no such module, or nothing callable of that name in it.
    """
    module_name, _, name = str(path).rpartition(".")
    if not module_name:
        raise UserError(f"{path!r} is no dotted path like package.module.function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{module_name}, which builds {what}, cannot be imported ({error}); install it, or start Python "
            "where it lies"
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module_name} has no function or class {name!r}{nearest(name, vars(module))}")
    return found  # type: ignore[no-any-return]


def arguments(target: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a model config that ``target`` gets: a foreign net need not know the facts of a data set."""
    given = {key: value for key, value in config.items() if key not in NO_ARGUMENTS and not key.startswith("_")}
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    return {key: value for key, value in given.items() if key in parameters or key not in FROM_DATA}


def build(path: str, arguments: Mapping[str, Any], *, trust: bool) -> nn.Module:
    """Call the target behind ``path``.

    Args:
        path: dotted path.
        arguments: keyword arguments.
        trust: also call a target that is neither a subclass of ``nn.Module`` nor a function annotated to return one.

    Raises:
        UserError: the target is unknown, not trusted, does not take the arguments, or gives something else.
    """
    target = find(path)
    if not (trust or _returns_net(target)):
        raise UserError(
            f"{path} is neither a torch.nn.Module nor annotated to return one, so it is not called; annotate it, "
            "or give trust=True if you know what it does"
        )
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(target).parameters)
        raise UserError(f"{path} cannot be called with {', '.join(arguments)} ({error}); it takes: {takes}") from None
    net = target(**arguments)
    if not isinstance(net, nn.Module):
        raise UserError(f"{path} gave a {type(net).__name__}, not a torch.nn.Module")
    return net


def _returns_net(target: Callable[..., Any]) -> bool:
    if inspect.isclass(target):
        return issubclass(target, nn.Module)
    answer = getattr(target, "__annotations__", {}).get("return")
    if isinstance(answer, str):  # postponed: look the name up where the function was written, evaluate nothing
        first, *rest = answer.strip("'\"").split(".")
        answer = getattr(target, "__globals__", {}).get(first)
        for name in rest:
            answer = getattr(answer, name, None)
    return inspect.isclass(answer) and issubclass(answer, nn.Module)
