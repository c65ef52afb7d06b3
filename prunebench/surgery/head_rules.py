"""The rules for reshapes that keep, join or part the channels, and for attention by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from prunebench.surgery.gates import is_gate
from prunebench.surgery.heads import Attend, HeadProduct, Heads, Regroup, Weights, has_heads, is_complete, is_loose
from prunebench.surgery.heads import is_scores as scores_at
from prunebench.surgery.names import TURNS, name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import full
from prunebench.surgery.shuffles import turned
from prunebench.surgery.steps import Expanded, Lifted, Multiply, PerChannel, Size, Source, Step, Through

# ------------------------------------------------------------------------------------------------------------- shapes


def regroup(context: Context, node: fx.Node) -> Step | None:
    """A reshape: the channels have one dimension before and after, or get several of which one counts heads."""
    source, before, after = context.first(node), context.shape(node.args[0]), context.shape(node)
    if source is None or source.axis is None or before is None or after is None or source.width < 2:
        return None
    front, size = math.prod(before[: source.axis]), before[source.axis]
    inputs = context.inputs(node, *_leading(node))
    for place, new in enumerate(after):
        if math.prod(after[:place]) != front or new < 2:
            continue
        if new % size == 0:
            extent = new // size
            span = source.span * extent
            return context.through(node, Regroup, inputs=inputs, axis=place, span=span, extent=extent)
        if size % new == 0 and source.span == 1:
            behind = len(before) - source.axis - 1
            sizes = after[place : len(after) - behind]
            same = after[len(after) - behind :] == before[source.axis + 1 :] and math.prod(sizes) == size
            return _parted(context, node, source, place, sizes, inputs) if same else None
    return None


def _leading(node: fx.Node) -> tuple[fx.Node, ...]:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return (first,)


def _parted(
    context: Context, node: fx.Node, source: Step, place: int, sizes: Sequence[int], inputs: tuple[int, ...]
) -> Step | None:
    """Heads: the channels get dimensions of these ``sizes`` from ``place`` on.

    Where one of them is taken apart by number it counts queries, keys and values; the first of the others counts heads.
    """
    pieces = _numbered(context, node)
    own = next((dim for dim in range(len(sizes)) if place + dim != pieces and sizes[dim] > 1), None)
    if own is None or own == len(sizes) - 1 or not is_complete(context.complete(source.index), source):
        return None
    heads, inner = sizes[own], math.prod(sizes[own + 1 :])
    outer = math.prod(sizes[:own])
    members = tuple(sum(full(inner) << (o * heads + head) * inner for o in range(outer)) for head in range(heads))
    return Heads(index=context.index, inputs=inputs, axis=place + own, width=heads, members=members)


def _numbered(context: Context, node: fx.Node) -> int | None:
    """The dimension of a tensor of which readers take single entries, ``x[0]`` or ``x.unbind(0)``, perhaps turned."""
    where, reader = list(range(len(context.shape(node) or ()))), node
    while len(reader.users) == 1 and name_of(next(iter(reader.users))) in TURNS:
        reader = next(iter(reader.users))
        order = turned(context, reader)
        if order is None:
            return None
        where = [where[dim] for dim in order]
    for user in reader.users:
        wanted = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
        if name_of(user) == "unbind" and isinstance(wanted, int):
            return where[wanted]
        items = wanted if isinstance(wanted, tuple) else (wanted,)
        if name_of(user) == "getitem" and all(item is not None for item in items):
            behind = items[items.index(Ellipsis) + 1 :] if Ellipsis in items else ()
            front = items[: items.index(Ellipsis)] if Ellipsis in items else items
            dims = [*enumerate(front), *enumerate(behind, len(where) - len(behind))]
            return next((where[dim] for dim, item in dims if isinstance(item, int)), None)
    return None


# ---------------------------------------------------------------------------------------------------------- attention


def product(context: Context, node: fx.Node) -> Step | None:
    """A matrix product of the matrices that each head has: ``q @ k.transpose(-2, -1)``, ``weights @ v``."""
    shapes = [context.shape(other) for other in node.args[:2]]
    if len(shapes) != 2 or node.kwargs or any(shape is None for shape in shapes):
        return None
    known = {step.axis for step in _steps(context, *node.args[:2])} - {None}
    dims = {len(shape or ()) for shape in shapes}
    axis = known.pop() if len(known) == 1 else None
    if axis is None or len(dims) != 1 or axis >= dims.pop() - 2:
        return None
    return _joined(context, node, node.args[:2], (axis, axis), axis)


def einsum(context: Context, node: fx.Node) -> Step | None:
    """The same by letters: the heads' one is in both tensors and in the result."""
    equation, steps = node.args[0], _steps(context, *node.args[1:])
    if not isinstance(equation, str) or len(steps) != 2 or "." in equation or "->" not in equation:
        return None
    given, _, result = equation.replace(" ", "").partition("->")
    operands = given.split(",")
    letters = {own[step.axis] for own, step in zip(operands, steps, strict=True) if step.axis is not None}
    letter = letters.pop() if len(letters) == 1 else " "
    if any(own.count(letter) != 1 for own in (*operands, result)):
        return None
    axes = operands[0].index(letter), operands[1].index(letter)
    return _joined(context, node, node.args[1:], axes, result.index(letter))


def _joined(context: Context, node: fx.Node, pair: Sequence[Any], axes: tuple[int, int], axis: int) -> Step | None:
    """A product of two tensors with the heads at ``axes``, and at ``axis`` of the result."""
    steps = _steps(context, *pair)
    width = next(step.width for step in steps if step.axis is not None)
    sizes = {(context.shape(other) or ())[place] for other, place in zip(pair, axes, strict=True)}
    if sizes != {width} or not any(has_heads(context.steps, step.index) for step in steps):
        return None
    loose = [is_loose(context.steps, step.index) for step in steps]
    values = loose.index(False) if sum(loose) == 1 else None
    if values is not None:
        return _attend(context, node, pair, values, axes, axis) if steps[values].axis is not None else None
    return HeadProduct(
        index=context.index,
        inputs=tuple(step.index for step in steps),
        axis=axis,
        width=width,
        whole=tuple(full(width) if step.axis is None else 0 for step in steps),
        axes=axes,
        macs_each=context.traced.macs[node] // width,
    )


def attention(context: Context, node: fx.Node) -> Step | None:
    """``F.scaled_dot_product_attention`` with as many heads of keys and values as of queries."""
    names = ("query", "key", "value", "attn_mask")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    operands = [given[name] for name in names if isinstance(given.get(name), fx.Node)]
    shapes = [context.shape(operand) or () for operand in operands]
    steps = _steps(context, *operands)
    if given.get("enable_gqa") or len(steps) != len(operands) or len(operands) < 3:
        return None
    dims, axis = len(shapes[0]), steps[2].axis
    if axis is None or axis >= dims - 2 or any(step.axis not in (axis, None) for step in steps[:3]):
        return None
    if any(len(shape) != dims or shape[axis] != steps[2].width for shape in shapes[:3]):
        return None
    if any(step.axis is not None for step in steps[3:]):
        return None
    places = [axis - dims + len(shape) for shape in shapes]
    own = [p if p >= 0 and shape[p] == steps[2].width else None for p, shape in zip(places, shapes, strict=True)]
    return _attend(context, node, operands, 2, own, axis)


def _attend(
    context: Context, node: fx.Node, operands: Sequence[Any], values: int, axes: Sequence[int | None], axis: int
) -> Step | None:
    steps = _steps(context, *operands)
    width = steps[values].width
    if any(step.span > 1 for step in steps) or is_loose(context.steps, steps[values].index):
        return None
    return Attend(
        index=context.index,
        inputs=tuple(step.index for step in steps),
        axis=axis,
        width=width,
        values=values,
        whole=tuple(full(width) if step.axis is None else 0 for step in steps),
        axes=tuple(axes),
        why=context.why(node),
        macs_each=context.traced.macs[node] // width,
    )


def weights(context: Context, node: fx.Node, *, dim: Any = None) -> Step | None:
    """What stands between the scores and the values: a softmax, a mask, a bias of positions."""
    tensors = [other for other in node.all_input_nodes if context.shape(other) is not None]
    steps = _steps(context, *tensors)
    shape = context.shape(node)
    own = [place for place, step in enumerate(steps) if step.axis is not None]
    if len(own) != 1 or shape is None or not scores_at(context.steps, steps[own[0]].index):
        return None
    source, scores = steps[own[0]], tensors[own[0]]
    if source.axis is None or context.shape(scores) != shape or not is_complete(context.complete(source.index), source):
        return None
    if name_of(node) == "softmax":
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if (name_of(node) == "softmax" or node.op == "call_module") and not _is_other(dim, source.axis, len(shape)):
        return None
    axes: list[int | None] = []
    for other in (scores, *(other for other in tensors if other is not scores)):
        own_shape = context.shape(other) or ()
        place = source.axis - len(shape) + len(own_shape)
        axes.append(place if place >= 0 and own_shape[place] == source.width else None)
    inputs = context.inputs(node, scores, *(other for other in tensors if other is not scores))
    axes += [None] * (len(inputs) - len(axes))
    return Weights(index=context.index, inputs=inputs, axis=source.axis, width=source.width, axes=tuple(axes))


def _is_other(dim: Any, axis: int, num_dims: int) -> bool:
    return isinstance(dim, int) and dim % num_dims != axis


def norm(context: Context, node: fx.Node, module: nn.Module) -> Step | None:
    """A norm of each head's own features, ``LayerNorm(head_dim)``."""
    source, shape = context.first(node), context.shape(node)
    sizes = getattr(module, "normalized_shape", ())
    if source is None or source.axis is None or shape is None or not has_heads(context.steps, source.index):
        return None
    if source.axis >= len(shape) - len(sizes) or not is_complete(context.complete(source.index), source):
        return None
    name = str(node.target)
    return context.through(node, Weights, axes=(source.axis,), params=context.parameters(name))


def misread(context: Context, step: Step) -> bool:
    """Whether a step would take something for 0 that only is not there."""
    if not any(is_loose(context.steps, source) for source in step.inputs):
        return False
    if isinstance(step, Attend):
        return is_loose(context.steps, step.inputs[step.values])
    passes = isinstance(step, Through) and not isinstance(step, Lifted | PerChannel)
    scaled = isinstance(step, Multiply) and step.gate is not None
    repeated = isinstance(step, Expanded) and is_gate(context.steps, step.inputs[0])
    return not (passes or scaled or repeated or isinstance(step, HeadProduct | Source | Size))


def _steps(context: Context, *nodes: Any) -> list[Step]:
    """The steps of tensors."""
    found = [context.of(node) for node in nodes if isinstance(context.value(node), Tensor)]
    return [step for step in found if step is not None]
