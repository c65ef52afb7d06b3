"""Layers that a saved net needs beside those of its model: written down as plain data, put back by path.

A layer of a method that stays in the final net (gates, Gaussian weights, factors) offers ``config()``: the keyword
arguments of its class as plain data, so that ``type(layer)(**layer.config())`` has the same tensors in the same shapes.
One that holds the net's own layer (:class:`prunebench.layers.around.Around`) is put around the one that is there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from prunebench.config.named import build
from prunebench.layers.around import Around
from prunebench.surgery.replace import replace

Table = Mapping[str, Mapping[str, Any]]
"""Path -> ``{"target": dotted path of the class, "arguments": its keyword arguments}``."""


def describe(net: nn.Module) -> dict[str, dict[str, Any]]:
    """The layers of ``net`` that offer ``config()``, the outermost of nested ones."""
    table: dict[str, dict[str, Any]] = {}
    for path, module in net.named_modules():
        config = getattr(module, "config", None)
        inside = any(path.startswith(f"{outer}.") for outer in table)
        if path and callable(config) and not inside:
            kind = type(module)
            table[path] = {"target": f"{kind.__module__}.{kind.__qualname__}", "arguments": dict(config())}
    return table


def rebuild(net: nn.Module, table: Table, *, trust: bool = False) -> nn.Module:
    """A copy of ``net`` with the layers of ``table`` in their places, their weights still random.

    Args:
        trust: also call classes of other packages, see :func:`prunebench.config.named.build`.

    Raises:
        UserError: an unknown path, or a target that is no ``nn.Module`` or does not take the arguments.
    """
    if not table:
        return net
    made = {path: _layer(path, row["target"], row["arguments"], trust) for path, row in table.items()}
    found = replace(net, made)
    for path, layer in made.items():
        if isinstance(layer, Around):
            layer.around(copy.deepcopy(net.get_submodule(path)))
    return found


def _layer(path: str, target: str, arguments: Mapping[str, Any], trust: bool) -> nn.Module:
    settings = {"_target_": target, **arguments}
    return build(f"layers.{path}", settings, expects=nn.Module, trust=trust)  # type: ignore[no-any-return]
