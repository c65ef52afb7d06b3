"""The rules for functions and methods of one tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from prunebench.surgery import head_rules, joins, shuffles, split_rules
from prunebench.surgery.composed import composed
from prunebench.surgery.lifts import is_lifted, lifted
from prunebench.surgery.names import (
    ACTIVATIONS,
    COPIES,
    FACTORIES,
    LIFTS,
    POOLS,
    REDUCTIONS,
    RESHAPES,
    SHIFTS,
    SIZES,
    SPLITS,
    TURNS,
    name_of,
)
from prunebench.surgery.rule_context import Context
from prunebench.surgery.steps import ChannelCount, Filled, Size, Source, Split, Step, Unfolded


def step(context: Context, node: fx.Node) -> Step | None:
    """The step of a function or method; None where its input must be complete."""
    name = name_of(node)
    if name in FACTORIES:
        shaped = any(isinstance(size, Size) and size.axis is not None for size in map(context.of, node.all_input_nodes))
        return (Filled if shaped else Source)(index=context.index, inputs=context.inputs(node))
    if is_lifted(context, node):
        return lifted(context, node)
    rule = _RULES.get(name)
    found = rule(context, node) if rule and node.args else None
    return found or (head_rules.weights(context, node) if name in ("add", "sub") else None)


def attribute(net: nn.Module, path: str) -> Any:
    """The object at a path of attributes."""
    return operator.attrgetter(path)(net)


def _activation(context: Context, node: fx.Node) -> Step | None:
    """One that maps 0 to 0; the others are lifted."""
    return context.through(node) if composed(context, node)[0] is not node else None


def _power(context: Context, node: fx.Node) -> Step | None:
    """``x ** 2``: a power of 0 is 0 if the exponent is above 0."""
    exponent = node.args[1] if len(node.args) > 1 else node.kwargs.get("exponent")
    return context.through(node) if isinstance(exponent, int | float) and exponent > 0 else None


def _copy(context: Context, node: fx.Node) -> Step | None:
    tensors = [other for other in node.all_input_nodes if context.shape(other) is not None]
    return context.through(node) if len(tensors) == 1 else None


def _pool(context: Context, node: fx.Node) -> Step | None:
    dims = context.num_spatial(node)
    return context.through(node) if dims == int(name_of(node)[-2]) else None


def _interpolate(context: Context, node: fx.Node) -> Step | None:
    return context.through(node) if context.num_spatial(node) else None


def _reduce(context: Context, node: fx.Node) -> Step | None:
    source, before, after = context.first(node), context.shape(node.args[0]), context.shape(node)
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
    if source is None or source.axis is None or before is None or after is None or dims is None:
        return None
    listed = dims if isinstance(dims, list | tuple) else [dims]
    if not all(isinstance(dim, int) for dim in listed):
        return None
    gone = {int(dim) % len(before) for dim in listed}  # type: ignore[arg-type]
    if source.axis in gone:
        return None
    kept = len(after) == len(before)
    return context.through(node, axis=source.axis if kept else source.axis - sum(d < source.axis for d in gone))


def _shifted(context: Context, node: fx.Node) -> Step | None:
    """``roll`` and ``flip`` along other dimensions than the channels."""
    source, shape = context.first(node), context.shape(node.args[0])
    place = 2 if name_of(node) == "roll" else 1
    dims = node.args[place:] or (node.kwargs.get("dims"),)
    listed = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    if source is None or source.axis is None or shape is None or not all(isinstance(dim, int) for dim in listed):
        return None
    return None if source.axis in {int(dim) % len(shape) for dim in listed} else context.through(node)  # type: ignore[arg-type]


def _reshape(context: Context, node: fx.Node) -> Step | None:
    return shuffles.reshaped(context, node) or context.reshape(node) or head_rules.regroup(context, node)


def _unflatten(context: Context, node: fx.Node) -> Step | None:
    return unflattened(context, node, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim"))


def unflattened(context: Context, node: fx.Node, dim: Any) -> Step | None:
    """Another dimension than the channels becomes several."""
    source, before, after = context.first(node), context.shape(node.args[0]), context.shape(node)
    if source is None or source.axis is None or before is None or after is None or not isinstance(dim, int):
        return None
    place = dim % len(before)
    if place == source.axis:
        return None
    return context.through(node, axis=source.axis + (len(after) - len(before) if place < source.axis else 0))


def _turn(context: Context, node: fx.Node) -> Step | None:
    source, order = context.first(node), shuffles.turned(context, node)
    if isinstance(source, Unfolded):
        return context.through(node, Unfolded)
    if source is None or source.axis is None or order is None:
        return None
    return context.through(node, axis=order.index(source.axis))


def _size(context: Context, node: fx.Node) -> Step | None:
    source, shape = context.first(node), context.shape(node.args[0])
    if source is None or shape is None:
        return None
    what = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if context.shape(node) is not None:  # x.data, x.T
        return context.through(node) if what == "data" else None
    if what == "shape" or (name_of(node) == "size" and what is None):
        return context.through(node, Size)
    return _one_size(context, node, source, what, len(shape))


def _one_size(context: Context, node: fx.Node, source: Step, dim: Any, num_dims: int) -> Step:
    if source.axis is not None and isinstance(dim, int) and dim % num_dims == source.axis:
        return ChannelCount(index=context.index)
    return Source(index=context.index, inputs=context.inputs(node))


def _getitem(context: Context, node: fx.Node) -> Step | None:
    source, wanted = context.first(node), node.args[1]
    if isinstance(source, Split):
        return split_rules.piece(context, node)
    if isinstance(source, Size) and isinstance(wanted, int):
        return _one_size(context, node, source, wanted, len(context.value(node.args[0])))
    if isinstance(source, Size) and isinstance(wanted, slice):
        sizes = range(len(context.value(node.args[0])))[wanted]
        if source.axis is None or source.axis not in sizes:
            return Source(index=context.index, inputs=context.inputs(node))
        return context.through(node, Size, axis=sizes.index(source.axis))
    shape = context.shape(node.args[0])
    if source is None or source.axis is None or shape is None:
        return None
    if isinstance(wanted, tuple) and None in wanted:
        return _with_new_dimensions(context, node, wanted, source.axis)
    items = one_for_each(wanted, len(shape))
    if items is None or not all(isinstance(item, slice | int) for item in items):
        return None
    if items[source.axis] != slice(None):
        return split_rules.part(context, node, items)
    dropped = sum(isinstance(item, int) for item in items[: source.axis])
    return context.through(node, axis=source.axis - dropped)


def _with_new_dimensions(context: Context, node: fx.Node, wanted: tuple[Any, ...], axis: int) -> Step | None:
    """``x[:, :, None, None]``, where nothing but dimensions is added."""
    if not all(item is None or item == slice(None) for item in wanted) or wanted[0] is None:
        return None
    kept = [place for place, item in enumerate(wanted) if item is not None]
    return context.through(node, axis=kept[axis] if axis < len(kept) else axis + len(wanted) - len(kept))


def one_for_each(wanted: Any, num_dims: int) -> list[Any] | None:
    """The items of ``x[wanted]``, one for each dimension; None where it adds dimensions."""
    items: Sequence[Any] = wanted if isinstance(wanted, tuple) else (wanted,)
    if any(item is None for item in items):
        return None
    before = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
    after = list(items[before + 1 :])
    return [*items[:before], *[slice(None)] * (num_dims - before - len(after)), *after]


_RULES: dict[str, Callable[[Context, fx.Node], Step | None]] = {
    **dict.fromkeys(ACTIVATIONS | LIFTS, _activation),
    **dict.fromkeys(COPIES, _copy),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(TURNS, _turn),
    **dict.fromkeys(SIZES, _size),
    **dict.fromkeys(SHIFTS, _shifted),
    "interpolate": _interpolate,
    "unflatten": _unflatten,
    "pow": _power,
    "getitem": _getitem,
    **dict.fromkeys(SPLITS, split_rules.split),
    "unbind": split_rules.unbind,
    "matmul": head_rules.product,
    "bmm": head_rules.product,
    "einsum": head_rules.einsum,
    "scaled_dot_product_attention": head_rules.attention,
    **dict.fromkeys(("softmax", "masked_fill", "where"), head_rules.weights),
    "add": joins.add,
    "sub": joins.subtract,
    "subtract": joins.subtract,
    "mul": joins.multiply,
    "div": joins.divide,
    "truediv": joins.divide,
    "maximum": joins.extreme,
    "minimum": joins.extreme,
    "max": joins.extreme,
    "min": joins.extreme,
    "expand_as": joins.expand_as,
    "cat": joins.cat,
    "concat": joins.cat,
    "pad": joins.pad,
}
