"""Swap layers by path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import nn

from prunebench.errors import UserError, nearest

Maker = Callable[[str, nn.Module], nn.Module | None]


def replace(net: nn.Module, new: Mapping[str, nn.Module] | Maker) -> nn.Module:
    """A copy of a net with some of its modules swapped; do this before an optimiser exists.

    A new module takes over the mode (training or evaluation) of the old one. What lies inside a swapped module is not
    visited. A module with several names is swapped once and stays shared.

    Args:
        net: stays as it is.
        new: path -> module; or a function of path and module (of the copy, so that it may keep the old parameters)
            that returns the new module, or None to leave it.

    Raises:
        UserError: an unknown path, or nothing was swapped.
    """
    net = copy.deepcopy(net)
    paths = [name for name, _ in net.named_modules(remove_duplicate=False) if name]
    make = _from_table(new, paths) if isinstance(new, Mapping) else new
    swapped: dict[int, nn.Module] = {}
    done: list[str] = []
    for path in paths:
        if any(path.startswith(f"{outer}.") for outer in done):
            continue
        old = net.get_submodule(path)
        made = swapped.get(id(old)) or make(path, old)
        if made is None:
            continue
        swapped[id(old)] = made.train(old.training)
        net.set_submodule(path, made, strict=True)
        done.append(path)
    if not done:
        raise UserError(f"no module of {type(net).__name__} was replaced; its paths are {', '.join(paths[:8])}, …")
    return net


def _from_table(table: Mapping[str, nn.Module], paths: list[str]) -> Maker:
    for path in table:
        if path not in paths:
            raise UserError(f"cannot replace '{path}': the net has no module of that name{nearest(path, paths)}")
    return lambda path, _: table.get(path)
