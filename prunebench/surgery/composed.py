"""Functions of one tensor that a net composes by hand, entry by entry: ``x * sigmoid(x)``, ``x * relu6(x + 3) / 6``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from prunebench.surgery.names import ACTIVATIONS, ARITHMETIC, LIFTS, name_of
from prunebench.surgery.rule_context import Context

_MODULES = frozenset(name.replace("_", "") for name in ACTIVATIONS | LIFTS)


def composed(context: Context, node: fx.Node) -> tuple[fx.Node, float]:
    """The tensor whose entries alone a node's entries depend on, and the node's value where that tensor is 0.

    A node that is no such function is its own tensor. A value that is no number (0 / 0) is nan.
    """
    if node not in context.composed:
        context.composed[node] = _follow(context, node) or (node, 0.0)
    return context.composed[node]


def _follow(context: Context, node: fx.Node) -> tuple[fx.Node, float] | None:
    if not _is_elementwise(context, node):
        return None
    read = {other: composed(context, other) for other in node.all_input_nodes}
    roots = {root for root, _ in read.values()}
    if len(roots) != 1:
        return None
    values = {other: torch.full((1,), value, dtype=torch.float64) for other, (_, value) in read.items()}
    with torch.no_grad():
        return roots.pop(), float(_run(context, node, values))


def _is_elementwise(context: Context, node: fx.Node) -> bool:
    """Whether it works entry by entry on tensors of one shape and plain numbers."""
    shape = context.shape(node)
    if shape is None or not node.all_input_nodes or any(context.shape(o) != shape for o in node.all_input_nodes):
        return False
    if node.op == "call_module":
        module = context.net.get_submodule(str(node.target))
        if str(node.target) in context.shared:  # it has hooks
            return False
        known = type(module).__module__ == "torch.nn.modules.activation" and not list(module.parameters())
        return known and type(module).__name__.lower() in _MODULES
    return name_of(node) in ACTIVATIONS | LIFTS | ARITHMETIC


def _run(context: Context, node: fx.Node, values: dict[fx.Node, Tensor]) -> Any:
    """The node's operation on other tensors."""
    args = fx.node.map_arg(node.args, lambda other: values[other].clone())
    kwargs = fx.node.map_arg(dict(node.kwargs), lambda other: values[other].clone())
    if node.op == "call_module":
        module: nn.Module = context.net.get_submodule(str(node.target))
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
