"""How operations on several tensors are written where their channels differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from prunebench.layers.scatter import ScatterAdd, Spread
from prunebench.surgery.draft import Draft
from prunebench.surgery.names import name_of
from prunebench.surgery.sets import positions
from prunebench.surgery.steps import Add, Cat, Expanded, Extreme, Multiply, Subtract


def add(draft: Draft, step: Add, node: fx.Node) -> fx.Node:
    sets, union = step.sets(draft.live), draft.live[step.index]
    if not all(sets):
        return draft.alias(node, draft.source(step, 0 if sets[0] else 1))
    held = [draft.narrow.get(source, bits) for source, bits in zip(step.inputs, sets, strict=True)]
    if held[0] == held[1] == union:
        return draft.copy(node)
    left, right = (draft.value(draft.source(step, place)) for place in (0, 1))
    assert step.axis is not None
    places = [positions(part, union, step.span) for part in held]
    fields: dict[str, Any] = {"width": union.bit_count() * step.span, "axis": step.axis}
    if held[0] == union:
        return draft.call(node, "scatter", ScatterAdd(first=None, second=places[1], **fields), left, right)
    if held[1] == union:
        return draft.call(node, "scatter", ScatterAdd(first=None, second=places[0], **fields), right, left)
    return draft.call(node, "scatter", ScatterAdd(first=places[0], second=places[1], **fields), left, right)


def subtract(draft: Draft, step: Subtract, node: fx.Node) -> fx.Node:
    sets = step.sets(draft.live)
    if not sets[1]:
        return draft.alias(node, draft.source(step, 0))
    if not sets[0]:
        return draft.new.call_function(torch.neg, (draft.value(draft.source(step, 1)),))
    return _spread_both(draft, step, node)


def _spread_both(draft: Draft, step: Add, node: fx.Node) -> fx.Node:
    """The operation on two tensors that both have the union of their channels."""
    sets, union = step.sets(draft.live), draft.live[step.index]
    assert step.axis is not None
    changed = {}
    for place, held in enumerate(sets):
        if held != union:
            source = draft.source(step, place)
            places, width = positions(held, union, step.span), union.bit_count() * step.span
            spread = Spread(width=width, places=places, axis=step.axis)
            changed[source] = draft.call(node, f"spread_{source.name}", spread, draft.value(source))
    return draft.copy(node, changed)


def extreme(draft: Draft, step: Extreme, node: fx.Node) -> fx.Node:
    left, right = step.sets(draft.live)
    if left and right:
        return _spread_both(draft, step, node)
    value = draft.value(draft.source(step, 0 if left else 1))
    bound = "min" if name_of(node) in ("max", "maximum") else "max"
    return draft.new.call_function(torch.clamp, (value,), {bound: 0})


def expanded(draft: Draft, step: Expanded, node: fx.Node) -> fx.Node:
    what, like = (draft.value(draft.source(step, place)) for place in (0, -1))
    shape = draft.graph.traced.values[node].shape
    sizes = [draft.new.call_method("size", (like, dim)) for dim in range(2, len(shape))]
    return draft.new.call_method("expand", (what, -1, shape[1] if step.axis is None else -1, *sizes))


def multiply(draft: Draft, step: Multiply, node: fx.Node) -> fx.Node:
    both, dims = draft.live[step.index], len(draft.graph.traced.values[node].shape)
    assert step.axis is not None
    changed: dict[fx.Node, fx.Node] = {}
    for place, held in enumerate(step.sets(draft.live)):
        source = draft.source(step, place)
        shape = draft.graph.traced.values[source].shape
        axis = step.axis - dims + len(shape)  # shapes are aligned at the last dimension
        if axis >= 0 and shape[axis] == step.width * step.span:
            changed[source] = draft.gathered(node, source, held, both, step.span, axis)
    return draft.copy(node, changed)


def cat(draft: Draft, step: Cat, node: fx.Node) -> fx.Node:
    pieces = [draft.graph.nodes[source] for source in step.inputs if draft.live[source]]
    if len(pieces) == 1:
        return draft.alias(node, pieces[0])
    return draft.new.call_function(torch.cat, ([draft.value(piece) for piece in pieces], step.axis))
