"""The rules for operations that take a tensor apart along its channels: splits and slices."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import full
from prunebench.surgery.steps import ChannelCount, Piece, Split, Step


def split(context: Context, node: fx.Node) -> Step | None:
    """``split``, ``chunk``, ``tensor_split``: pieces of a tensor, each of which is read by its number."""
    source, pieces = context.first(node), context.value(node)
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if source is None or source.axis is None or not isinstance(dim, int) or not _read_one_by_one(node):
        return None
    shape = context.shape(node.args[0])
    assert shape is not None
    axis = dim % len(shape)
    if axis == 0:
        return None
    if axis != source.axis:
        return context.through(node, Split, widths=())
    widths = _in_channels([piece.shape[axis] for piece in pieces], source.span)
    if widths is None or not _all_live(context, source, widths) or not _fixed(context, node):
        return None
    return context.through(node, Split, inputs=(source.index,), widths=widths)


def unbind(context: Context, node: fx.Node) -> Step | None:
    """The slices along another dimension than the channels, each of which is read by its number."""
    source, shape = context.first(node), context.shape(node.args[0])
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if source is None or source.axis is None or shape is None or not isinstance(dim, int):
        return None
    place = dim % len(shape)
    if place == source.axis or not _read_one_by_one(node):
        return None
    return context.through(node, Split, widths=(), axis=source.axis - (place < source.axis))


def piece(context: Context, node: fx.Node) -> Step | None:
    """One item of what :func:`split` returns."""
    source, place = context.first(node), node.args[1]
    assert isinstance(source, Split)
    assert isinstance(place, int)
    if not source.widths:
        return context.through(node)
    place %= len(source.widths)
    base = context.base(node, axis=source.axis, width=source.widths[place], span=source.span)
    return Piece(**base, offset=sum(source.widths[:place]))


def part(context: Context, node: fx.Node, items: Sequence[Any]) -> Step | None:
    """A run of channels, ``x[:, a:b]``; ``items`` are one for each dimension."""
    source, shape = context.first(node), context.shape(node.args[0])
    assert source is not None
    assert source.axis is not None
    assert shape is not None
    wanted = items[source.axis]
    if not isinstance(wanted, slice) or not all(_is_fixed(context, end) for end in (wanted.start, wanted.stop)):
        return None
    ends = slice(context.value(wanted.start), context.value(wanted.stop), wanted.step)
    start, stop, step = ends.indices(shape[source.axis])
    if step != 1 or start >= stop or start % source.span or stop % source.span:
        return None
    offset, width = start // source.span, (stop - start) // source.span
    if not context.complete(source.index) >> offset & full(width):
        return None
    dropped = sum(isinstance(item, int) for item in items[: source.axis])
    return Piece(**context.base(node, axis=source.axis - dropped, width=width, span=source.span), offset=offset)


def _read_one_by_one(node: fx.Node) -> bool:
    """Whether the pieces are read by number only, not as one list."""
    return all(
        user.target is operator.getitem and user.args[0] is node and isinstance(user.args[1], int)
        for user in node.users
    )


def _in_channels(sizes: Sequence[int], span: int) -> tuple[int, ...] | None:
    return None if any(size % span or not size for size in sizes) else tuple(size // span for size in sizes)


def _all_live(context: Context, source: Step, widths: Sequence[int]) -> bool:
    """Whether each piece has a channel: one of padded zeros only would be dead in the dense net already."""
    live = context.complete(source.index)
    return all(live >> sum(widths[:place]) & full(width) for place, width in enumerate(widths))


def _fixed(context: Context, node: fx.Node) -> bool:
    return all(_is_fixed(context, other) for other in node.all_input_nodes if other is not node.args[0])


def _is_fixed(context: Context, value: Any) -> bool:
    """Whether a number follows from the net alone: a literal, or calculated from numbers of channels."""
    if not isinstance(value, fx.Node):
        return value is None or isinstance(value, int)
    if isinstance(context.value(value), Tensor):
        return False
    return isinstance(context.of(value), ChannelCount) or (
        bool(value.all_input_nodes) and all(_is_fixed(context, other) for other in value.all_input_nodes)
    )
