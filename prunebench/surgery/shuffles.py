"""The rules for channel shuffles: the channels are laid along two dimensions, these are swapped and joined again."""

from __future__ import annotations

from typing import Any

from torch import fx

from prunebench.surgery.joins import flat
from prunebench.surgery.names import RESHAPES, TURNS, name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.steps import Reorder, Step, Unfolded

_SAME = ("contiguous", "clone")


def reshaped(context: Context, node: fx.Node) -> Step | None:
    """The first or the last operation of a shuffle; None for any other change of shape."""
    source, before = context.first(node), context.shape(node.args[0])
    if source is None or before is None or source.axis != 1 or source.span != 1:
        return None
    swap = _swap_before(node)
    if swap is not None and isinstance(context.of(swap), Unfolded):
        rows, columns = before[1:3]  # [batch, rows, columns, ...], where a channel was column * rows + row
        order = tuple(column * rows + row for row in range(rows) for column in range(columns))
        base: dict[str, Any] = {"index": context.index, "inputs": (source.index,), "axis": 1, "width": source.width}
        return Reorder(**base, order=order)
    return context.through(node, Unfolded, inputs=(source.index,)) if _begins(context, node) else None


def _begins(context: Context, node: fx.Node) -> bool:
    """Whether ``[batch, c, ...]`` becomes ``[batch, a, b, ...]``, then ``[batch, b, a, ...]``, then what it was."""
    before, after = context.shape(node.args[0]), context.shape(node)
    assert before is not None
    if after is None or len(after) != len(before) + 1 or after[0] != before[0] or after[3:] != before[2:]:
        return False
    swap = _only_user(node)
    if swap is None or name_of(swap) not in TURNS:
        return False
    order = turned(context, swap)
    last = _only_user(swap)
    while last is not None and name_of(last) in _SAME:
        last = _only_user(last)
    joins_again = last is not None and name_of(last) in RESHAPES and context.shape(last) == before
    return joins_again and order == [0, 2, 1, *range(3, len(after))]


def _swap_before(node: fx.Node) -> fx.Node | None:
    found = node.args[0]
    while isinstance(found, fx.Node) and name_of(found) in _SAME:
        found = found.args[0]
    return found if isinstance(found, fx.Node) and name_of(found) in TURNS else None


def _only_user(node: fx.Node) -> fx.Node | None:
    """Who alone reads a node as its first argument."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def turned(context: Context, node: fx.Node) -> list[int] | None:
    """Which dimension comes to each place, where a transposition or permutation is written with numbers."""
    shape = context.shape(node.args[0])
    dims = [context.value(dim) for dim in flat(node.args[1:])]
    if shape is None or node.kwargs or not all(isinstance(dim, int) for dim in dims):
        return None
    dims = [dim % len(shape) for dim in dims]
    if name_of(node) == "permute":
        return dims
    order = list(range(len(shape)))
    order[dims[0]], order[dims[1]] = dims[1], dims[0]
    return order
