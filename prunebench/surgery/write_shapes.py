"""How operations that cut, join, order or reshape channels are written."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.nn import functional as F

from prunebench.layers.scatter import Gather, Spread
from prunebench.surgery.draft import Draft
from prunebench.surgery.functions import one_for_each
from prunebench.surgery.heads import Attend, HeadProduct, Heads, Regroup, Weights
from prunebench.surgery.joins import channel_padding, flat, pad_arguments
from prunebench.surgery.names import name_of
from prunebench.surgery.sets import full, positions, to_indices
from prunebench.surgery.steps import Filled, Piece, Reorder, Reshape, Shift, Size, Split, Unfolded


def split(draft: Draft, step: Split, node: fx.Node) -> fx.Node:
    if not step.widths:
        return draft.copy(node)
    sizes, start = [], 0
    for width in step.widths:
        sizes.append((draft.live[step.index] >> start & full(width)).bit_count() * step.span)
        start += width
    return draft.new.call_function(torch.split, (draft.value(draft.source(step, 0)), sizes, step.axis))


def piece(draft: Draft, step: Piece, node: fx.Node) -> fx.Node:
    source = draft.graph.steps[step.inputs[0]]
    if isinstance(source, Split):
        return draft.copy(node)
    held = draft.live[source.index]
    start = (held & full(step.offset)).bit_count() * step.span
    stop = start + draft.live[step.index].bit_count() * step.span
    assert source.axis is not None
    dims = len(draft.graph.traced.values[draft.source(step, 0)].shape)
    items = one_for_each(node.args[1], dims)
    assert items is not None
    items[source.axis] = slice(start, stop)
    wanted = map_arg(tuple(items), lambda other: draft.written[other])
    return draft.new.call_function(operator.getitem, (draft.value(draft.source(step, 0)), wanted))


def filled(draft: Draft, step: Filled, node: fx.Node) -> fx.Node:
    """A shape that is handed over whole is the dense net's in its channels, and in its other sizes the small net's."""
    changed: dict[fx.Node, Any] = {}
    for index in step.inputs:
        size, shape = draft.graph.steps[index], draft.graph.nodes[index]
        if isinstance(size, Size) and size.axis is not None:
            dense, written = draft.graph.traced.values[shape], draft.value(shape)
            changed[shape] = tuple(
                dense[dim] if dim == size.axis else draft.new.call_function(operator.getitem, (written, dim))
                for dim in range(len(dense))
            )
    return draft.copy(node, changed)


def unfolded(draft: Draft, step: Unfolded, node: fx.Node) -> fx.Node:
    return draft.value(draft.source(step, 0))


def reorder(draft: Draft, step: Reorder, node: fx.Node) -> fx.Node:
    ranks = {channel: rank for rank, channel in enumerate(to_indices(draft.live[step.inputs[0]]))}
    places = [ranks[channel] for channel in step.order if channel in ranks]
    return draft.call(node, "order", Gather(places=places, axis=1), draft.value(draft.source(step, 0)))


def shift(draft: Draft, step: Shift, node: fx.Node) -> fx.Node:
    source = draft.source(step, 0)
    dims = len(draft.graph.traced.values[source].shape)
    assert step.axis is not None
    pads, _, _ = pad_arguments(lambda amount: draft.graph.traced.values.get(amount, amount), node)
    place = 2 * (dims - 1 - step.axis)
    if any(channel_padding(pads, dims, step.axis)):
        pads[place : place + 2] = [0, 0]
    if any(pads):
        return draft.new.call_function(F.pad, (draft.value(source), pads))
    return draft.alias(node, source)


def reshape(draft: Draft, step: Reshape, node: fx.Node) -> fx.Node:
    source = draft.source(step, 0)
    shape = draft.graph.traced.values[node].shape
    if len(shape) == 2:
        return draft.new.call_function(torch.flatten, (draft.alias(node, source), 1))
    if shape == draft.graph.traced.values[source].shape:
        return draft.alias(node, source)
    if len(shape) == 3 < len(draft.graph.traced.values[source].shape):
        return draft.new.call_function(torch.flatten, (draft.alias(node, source), 2))
    width = draft.live[step.index].bit_count() * step.span
    return draft.new.call_method("reshape", (draft.alias(node, source), -1, width, *shape[2:]))


def regroup(draft: Draft, step: Regroup, node: fx.Node) -> fx.Node:
    return _resized(draft, node, draft.source(step, 0), step.axis, draft.live[step.index].bit_count() * step.span)


def heads(draft: Draft, step: Heads, node: fx.Node) -> fx.Node:
    """A head that has lost some of its channels has zeros there."""
    source = draft.source(step, 0)
    held, wanted = draft.live[step.inputs[0]], step.channels(draft.live[step.index])
    changed: dict[fx.Node, fx.Node] = {}
    if held != wanted:
        axis = draft.graph.steps[step.inputs[0]].axis
        assert axis is not None
        spread = Spread(width=wanted.bit_count(), places=positions(held, wanted), axis=axis)
        changed[source] = draft.call(node, f"spread_{source.name}", spread, draft.value(source))
    return _resized(draft, node, source, step.axis, draft.live[step.index].bit_count(), changed)


def _resized(
    draft: Draft,
    node: fx.Node,
    source: fx.Node,
    axis: int | None,
    size: int,
    changed: dict[fx.Node, fx.Node] | None = None,
) -> fx.Node:
    """A reshape with another size of the channels; those of the image and the batch stay as they are written."""
    sizes = flat(node.args[1:])
    assert axis is not None
    if name_of(node) not in ("view", "reshape") or draft.graph.traced.values[node].dim() != len(sizes):
        return draft.copy(node, changed)  # it names no sizes
    sizes[axis] = size
    value = (changed or {}).get(source) or draft.alias(node, source)
    return draft.new.call_method("reshape", (value, *map_arg(tuple(sizes), lambda other: draft.written[other])))


def by_head(draft: Draft, step: HeadProduct | Attend | Weights, node: fx.Node) -> fx.Node:
    """The heads of the result, of all tensors that have some."""
    wanted, changed = draft.live[step.index], dict[fx.Node, fx.Node]()
    for index, axis in zip(step.inputs, step.axes, strict=True):
        source, own = draft.graph.nodes[index], draft.graph.steps[index]
        if axis is not None:
            held = full(step.width) if own.axis is None else draft.live[index]
            changed[source] = draft.gathered(node, source, held, wanted, 1, axis)
    return draft.copy(node, changed)
