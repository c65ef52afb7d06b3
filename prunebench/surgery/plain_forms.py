"""Operations that are two in one, written as the two that the rules know: a scaled summand, a stack that is reduced."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from prunebench.surgery.names import name_of

_JOINS: dict[str, Callable[..., Any]] = {
    "sum": operator.add,
    "mean": operator.add,
    "amax": torch.maximum,
    "amin": torch.minimum,
}


def simplify(graph: fx.Graph) -> None:
    """Rewrite, in place, ``add(a, b, alpha=2)`` as ``a + b * 2`` and ``stack([a, b]).sum(0)`` as ``a + b``."""
    for node in list(graph.nodes):
        if name_of(node) in ("add", "sub", "subtract"):
            _without_alpha(graph, node)
        elif name_of(node) == "stack":
            _without_stack(graph, node)


def _without_alpha(graph: fx.Graph, node: fx.Node) -> None:
    factor, other = node.kwargs.get("alpha", 1), node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    if not isinstance(factor, int | float) or factor in (0, 1) or not isinstance(other, fx.Node):
        return
    with graph.inserting_before(node):
        scaled = _like(node, graph.call_function(operator.mul, (other, factor)))
    node.args = (node.args[0], scaled)
    node.kwargs = {name: value for name, value in node.kwargs.items() if name not in ("alpha", "other")}


def _without_stack(graph: fx.Graph, node: fx.Node) -> None:
    """Where all that reads a stack takes it together again along the new dimension."""
    pieces, dim = node.args[0] if node.args else node.kwargs.get("tensors"), _dim(node)
    users = list(node.users)
    if not users or not isinstance(pieces, list | tuple) or len(pieces) < 2:
        return
    if not all(isinstance(piece, fx.Node) for piece in pieces):
        return
    if not all(_reduces(user, node, dim) for user in users):
        return
    for user in users:
        with graph.inserting_before(node):  # the pieces may be written into between the two
            total: Any = pieces[0]
            for piece in pieces[1:]:
                total = _like(user, graph.call_function(_JOINS[name_of(user)], (total, piece)))
            if name_of(user) == "mean":
                total = _like(user, graph.call_function(operator.truediv, (total, len(pieces))))
        user.replace_all_uses_with(total)
        graph.erase_node(user)
    graph.erase_node(node)


def _reduces(user: fx.Node, stack: fx.Node, dim: int) -> bool:
    if name_of(user) not in _JOINS or user.args[:1] != (stack,) or len(user.args) > 2:
        return False
    given = dict(user.kwargs) | ({"dim": user.args[1]} if len(user.args) == 2 else {})
    along = given.pop("dim", given.pop("axis", None))
    along = along[0] if isinstance(along, list | tuple) and len(along) == 1 else along
    return type(along) is int and along == dim and not any(given.values())


def _dim(stack: fx.Node) -> Any:
    return stack.args[1] if len(stack.args) > 1 else stack.kwargs.get("dim", 0)


def _like(node: fx.Node, made: fx.Node) -> fx.Node:
    """A new node that stands where ``node`` does in the net's code."""
    made.stack_trace, made.meta = node.stack_trace, dict(node.meta)
    return made
