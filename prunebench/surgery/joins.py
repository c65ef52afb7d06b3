"""The rules for functions that bring channels together: sums, products, concatenations, zero padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from prunebench.surgery.gates import is_gate
from prunebench.surgery.names import name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import full
from prunebench.surgery.steps import Add, Cat, Expanded, Extreme, Multiply, Shift, Step, Subtract, Through, origin


def _pair(context: Context, node: fx.Node) -> tuple[fx.Node, fx.Node] | fx.Node | None:
    """The two tensors of an operation, the tensor if the other one is a number, None for anything else."""
    others = node.args[:2] if len(node.args) > 1 else (*node.args, node.kwargs.get("other"))
    if len(node.args) > 2 or not set(node.kwargs) <= {"other", "alpha"} or node.kwargs.get("alpha", 1) != 1:
        return None
    tensors = [other for other in others if isinstance(other, fx.Node) and context.shape(other) is not None]
    if len(tensors) == 2:
        return tensors[0], tensors[1]
    numbers = [context.value(other) for other in others if other not in tensors]
    is_number = len(numbers) == 1 and isinstance(numbers[0], int | float)
    return tensors[0] if len(tensors) == 1 and is_number else None


def add(context: Context, node: fx.Node) -> Step | None:
    """A sum of two tensors of one shape, or of a tensor and 0."""
    return _sum(context, node, Add)


def subtract(context: Context, node: fx.Node) -> Step | None:
    """A difference of two tensors of one shape, or of a tensor and 0; minus another number, a dead channel lives."""
    return _sum(context, node, Subtract)


def extreme(context: Context, node: fx.Node) -> Step | None:
    """The larger or the smaller of two tensors of one shape."""
    pair = _pair(context, node)
    is_pair = isinstance(pair, tuple) and context.shape(pair[0]) == context.shape(pair[1])
    return _join(context, node, pair, Extreme) if is_pair else None  # type: ignore[arg-type]


def expand_as(context: Context, node: fx.Node) -> Step | None:
    """A tensor repeated to the shape of another one."""
    other = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    source, before, after = context.first(node), context.shape(node.args[0]), context.shape(node)
    if source is None or before is None or after is None or not isinstance(other, fx.Node) or len(before) < 2:
        return None
    first = node.args[0]
    assert isinstance(first, fx.Node)
    base: dict[str, Any] = {"index": context.index, "inputs": context.inputs(node, first)}
    if len(before) != len(after) or before[0] != after[0] or source.axis not in (None, 1):
        return None
    if source.axis is None or before[1] != after[1]:
        return Expanded(**base)
    return Expanded(**base, axis=1, width=source.width, span=source.span)


def _sum(context: Context, node: fx.Node, kind: type[Add]) -> Step | None:
    pair = _pair(context, node)
    if isinstance(pair, fx.Node):
        others = [other for other in node.args if other is not pair]
        return _channelwise(context, node, pair) if others == [0] else None  # sum([a, b]) begins with 0 + a
    if pair is None or not (context.shape(pair[0]) == context.shape(pair[1]) or _alike(context, node, pair)):
        return None
    return _join(context, node, pair, kind)


def multiply(context: Context, node: fx.Node) -> Step | None:
    """A product of two tensors, or of a tensor and a number."""
    pair = _pair(context, node)
    if isinstance(pair, fx.Node):
        return _channelwise(context, node, pair)
    if pair is None or context.shape(node) not in (context.shape(pair[0]), context.shape(pair[1])):
        return None
    product = _join(context, node, pair, Multiply)
    if not isinstance(product, Multiply):
        return None
    gates = [place for place, source in enumerate(product.inputs) if is_gate(context.steps, source)]
    return replace(product, gate=gates[0]) if len(gates) == 1 else product


def divide(context: Context, node: fx.Node) -> Step | None:
    """A tensor divided by a number."""
    pair = _pair(context, node)
    return _channelwise(context, node, pair) if isinstance(pair, fx.Node) and pair is node.args[0] else None


def _alike(context: Context, node: fx.Node, pair: tuple[fx.Node, fx.Node]) -> bool:
    """Whether two tensors of other shapes have the same live channels under any plan, as ``x - x.mean((2, 3), True)``.

    Only then is the sum of one channel and nothing never wanted, whose shape would be that of the smaller tensor.
    """
    shape, shapes = context.shape(node), [context.shape(tensor) for tensor in pair]
    steps = [context.of(tensor) for tensor in pair]
    if shape is None or any(step is None or step.axis is None for step in steps):
        return False
    sizes = {own[step.axis] for own, step in zip(shapes, steps, strict=True)}  # type: ignore[index,union-attr]
    origins = {origin(context.steps, step.index) for step in steps}  # type: ignore[union-attr]
    return len(sizes) == len(origins) == 1


def _channelwise(context: Context, node: fx.Node, tensor: fx.Node) -> Step | None:
    """Scaling by a number, or adding 0."""
    source = context.of(tensor)
    if source is None or source.axis is None:
        return None
    inputs = context.inputs(node, tensor)
    return Through(index=context.index, inputs=inputs, axis=source.axis, width=source.width, span=source.span)


def _join(context: Context, node: fx.Node, pair: tuple[fx.Node, fx.Node], kind: type[Add]) -> Step | None:
    """An addition or a product of two tensors, aligned at the last dimension."""
    shape = context.shape(node)
    assert shape is not None
    layouts, complete = [], []
    for tensor in pair:
        source, own = context.of(tensor), context.shape(tensor)
        assert source is not None and own is not None
        axis = None if source.axis is None else source.axis + len(shape) - len(own)
        # a map of one channel goes with each channel of the other tensor
        complete.append(axis is None or shape[axis] > own[source.axis or 0] == 1)
        if not complete[-1]:
            layouts.append((axis, source.width, source.span))
    if not layouts or len(set(layouts)) != 1:
        return None
    axis, width, span = layouts[0]
    inputs = context.inputs(node, *pair) if pair[0] is not pair[1] else context.inputs(node) * 2
    whole = tuple(full(width) if always else 0 for always in complete)
    return kind(index=context.index, inputs=inputs, axis=axis, width=width, span=span, whole=whole)


def cat(context: Context, node: fx.Node) -> Step | None:
    """A concatenation along the channels, or of parts of one tensor along another dimension."""
    pieces, shape = node.args[0], context.shape(node)
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if shape is None or not isinstance(pieces, list | tuple) or not isinstance(dim, int):
        return None
    axis = dim % len(shape)
    steps = [context.of(piece) for piece in pieces]
    if (same := _put_together(context, node, axis)) is not None:
        return same
    spans = {step.span for step in steps if step is not None and step.axis is not None}
    if len(spans) != 1 or any(step is None or step.axis not in (axis, None) for step in steps):
        return None
    span, offset = spans.pop(), 0
    inputs, offsets, whole = [], [], []
    for piece, source in zip(pieces, steps, strict=True):
        own = context.shape(piece)
        assert source is not None and own is not None
        width, rest = divmod(own[axis], span)
        if rest:
            return None
        if not is_zero(piece):
            inputs.append(source.index)
            offsets.append(offset)
            whole.append(full(width) if source.axis is None else 0)
        offset += width
    return Cat(
        index=context.index,
        inputs=tuple(inputs),
        axis=axis,
        width=offset,
        span=span,
        offsets=tuple(offsets),
        whole=tuple(whole),
    )


def _put_together(context: Context, node: fx.Node, axis: int) -> Step | None:
    """Tensors with the same live channels under any plan, one behind the other along another dimension."""
    steps = [context.of(piece) for piece in node.all_input_nodes]
    layouts = {(step.axis, step.width, step.span) for step in steps if step is not None}
    origins = {origin(context.steps, step.index) for step in steps if step is not None}
    if len(layouts) != 1 or len(origins) != 1 or None in steps:
        return None
    own, width, span = layouts.pop()
    if own is None or own == axis:
        return None
    return Through(index=context.index, inputs=context.inputs(node), axis=own, width=width, span=span)


def is_zero(node: Any) -> bool:
    """Whether a node's value is known to be 0: the padding of an option-A shortcut."""
    name = name_of(node)
    return name in ("zeros", "zeros_like", "new_zeros") or (name == "mul" and 0 in node.args)


def pad(context: Context, node: fx.Node) -> Step | None:
    """``F.pad`` with zeros, or around the image with what is in it."""
    source, shape = context.first(node), context.shape(node.args[0])
    pads, mode, value = pad_arguments(context.value, node)
    if source is None or source.axis is None or shape is None:
        return None
    front, back = channel_padding(pads, len(shape), source.axis)
    inside_batch = len(pads) == 2 * len(shape) and any(pads[-2:])
    if mode != "constant" and not (front or back or inside_batch):
        return context.through(node)  # a border that repeats the image of the same channel
    if value not in (None, 0) or mode != "constant":
        return None
    if inside_batch or min(front, back) < 0 or (source.span > 1 and (front or back)):
        return None
    fields = context.base(node, axis=source.axis, width=source.width + front + back, span=source.span)
    return Shift(**(fields | {"inputs": (source.index,)}), offset=front)


def pad_arguments(value: Callable[[Any], Any], node: fx.Node) -> tuple[list[int], str, float | None]:
    """Amounts, mode and filling of ``F.pad``."""
    names = ("pad", "mode", "value")
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    pads = [value(amount) for amount in flat([given["pad"]])]
    mode, filling = given.get("mode", "constant"), given.get("value")
    assert isinstance(mode, str)
    assert filling is None or isinstance(filling, int | float)
    return pads, mode, filling


def channel_padding(pads: Sequence[int], num_dims: int, axis: int) -> tuple[int, int]:
    """How many channels are added in front and behind; the pairs of ``F.pad`` begin with the last dimension."""
    place = 2 * (num_dims - 1 - axis)
    return (pads[place], pads[place + 1]) if place + 1 < len(pads) else (0, 0)


def flat(items: Sequence[Any]) -> list[Any]:
    """Sizes given one by one or as one list."""
    return list(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else list(items)
