"""The graph of the small net, operation by operation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from prunebench.layers.attention import Attention
from prunebench.layers.scatter import Constant, Gather, ScatterAdd, Spread
from prunebench.surgery.functions import one_for_each
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.heads import Attend, HeadProduct, Heads, Regroup, Weights
from prunebench.surgery.joins import channel_padding, flat, pad_arguments
from prunebench.surgery.names import name_of
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits, full, positions, to_indices, widen
from prunebench.surgery.steps import (
    Add,
    Cat,
    ChannelCount,
    Expanded,
    Extreme,
    Grouped,
    Mix,
    Multiply,
    Opaque,
    Piece,
    Reorder,
    Reshape,
    Shift,
    Split,
    Step,
    Subtract,
    Unfolded,
)
from prunebench.surgery.tracer import DROPOUTS, DROPPED, attention_arguments


class Writer:
    """Writes the operations of the net in which a plan is carried out.

    Args:
        root: gets the modules that scatter and gather.
        graph, plan: as in :func:`prunebench.surgery.shrink.shrink`.
    """

    def __init__(self, root: nn.Module, graph: ChannelGraph, plan: Plan) -> None:
        self.root = root
        self.graph = graph
        self.live, self.choice = graph.live(plan)
        self.needed = graph.needed(self.live)
        self.new = fx.Graph()
        self.written: dict[fx.Node, Any] = {}

    def write(self) -> fx.Graph:
        """The graph."""
        for step, node in zip(self.graph.steps, self.graph.nodes, strict=True):
            if self.needed[step.index]:
                self.written[node] = self._write(step, node)
        return self.new

    def _write(self, step: Step, node: fx.Node) -> Any:
        for kind, rule in _RULES.items():
            if isinstance(step, kind):
                return rule(self, step, node)
        if node.target in DROPOUTS and node in self.graph.traced.dropouts:
            return self._dropout(node)
        if node.op == "get_attr" and str(node.target) in self.graph.traced.constants:
            return self._constant(node)
        return self._copy(node)

    def _value(self, node: fx.Node) -> fx.Node:
        value = self.written[node]
        assert isinstance(value, fx.Node)
        return value

    def _copy(self, node: fx.Node, changed: dict[fx.Node, fx.Node] | None = None) -> fx.Node:
        written = self.written | (changed or {})
        if DROPPED in node.meta:
            given = {
                name: map_arg(value, lambda other: written[other]) for name, value in attention_arguments(node).items()
            }
            tensors = [given.pop(name) for name in ("query", "key", "value")]
            called = self._call(node, "module", Attention(node.meta[DROPPED]), *tensors)
            called.kwargs = {name: value for name, value in given.items() if name != "dropout_p"}
            return called
        copied: fx.Node = self.new.node_copy(node, lambda other: written[other])
        copied.type = None  # an annotation that is a text (from __future__ import annotations) cannot be pickled
        return copied

    def _call(self, node: fx.Node, suffix: str, module: nn.Module, *inputs: Any) -> fx.Node:
        """Call a module that the dense net does not have."""
        name = f"{node.name}_{suffix}"
        while hasattr(self.root, name):
            name += "_"
        self.root.add_module(name, module)
        called: fx.Node = self.new.call_module(name, inputs)
        return called

    def _source(self, step: Step, place: int) -> fx.Node:
        return self.graph.nodes[step.inputs[place]]

    def _alias(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """The tensor itself where the dense net made a new one: a copy if somebody writes into either."""
        value = self._value(source)
        if self.graph.traced.memory.is_written(node, source):
            return self.new.call_method("clone", (value,))
        return value

    def _constant(self, node: fx.Node) -> fx.Node:
        """A tensor that is not stored with the net: its own one, unless the forward pass makes it."""
        path, _, last = str(node.target).rpartition(".")
        made = self.graph.traced.constants[str(node.target)]
        return self._call(node, "constant", Constant(getattr(self.root.get_submodule(path), last, made)))

    def _gathered(self, node: fx.Node, source: fx.Node, held: Bits, wanted: Bits, span: int, axis: int) -> fx.Node:
        value = self._value(source)
        if held == wanted:
            return value
        return self._call(node, f"gather_{source.name}", Gather(places=positions(wanted, held, span), axis=axis), value)

    # ------------------------------------------------------------------------------------------- one rule for each kind

    def _dropout(self, node: fx.Node) -> fx.Node:
        given = dict(zip(("p", "training", "inplace"), node.args[1:], strict=False)) | dict(node.kwargs)
        options = {name: given[name] for name in ("p", "inplace") if name in given}
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return self._call(node, "module", DROPOUTS[node.target](**options), self._value(source))

    def _count(self, step: Step, node: fx.Node) -> int:
        value = self.graph.traced.values[node]
        assert isinstance(value, int)
        return value

    def _add(self, step: Add, node: fx.Node) -> fx.Node:
        sets, union = step.sets(self.live), self.live[step.index]
        if sets[0] == sets[1]:
            return self._copy(node)
        if not all(sets):
            return self._alias(node, self._source(step, 0 if sets[0] else 1))
        left, right = (self._value(self._source(step, place)) for place in (0, 1))
        assert step.axis is not None
        places = [positions(part, union, step.span) for part in sets]
        fields: dict[str, Any] = {"width": union.bit_count() * step.span, "axis": step.axis}
        if sets[0] == union:
            return self._call(node, "scatter", ScatterAdd(first=None, second=places[1], **fields), left, right)
        if sets[1] == union:
            return self._call(node, "scatter", ScatterAdd(first=None, second=places[0], **fields), right, left)
        return self._call(node, "scatter", ScatterAdd(first=places[0], second=places[1], **fields), left, right)

    def _subtract(self, step: Subtract, node: fx.Node) -> fx.Node:
        sets = step.sets(self.live)
        if not sets[1]:
            return self._alias(node, self._source(step, 0))
        if not sets[0]:
            return self.new.call_function(torch.neg, (self._value(self._source(step, 1)),))
        return self._spread_both(step, node)

    def _spread_both(self, step: Add, node: fx.Node) -> fx.Node:
        """The operation on two tensors that both have the union of their channels."""
        sets, union = step.sets(self.live), self.live[step.index]
        assert step.axis is not None
        changed = {}
        for place, held in enumerate(sets):
            if held != union:
                source = self._source(step, place)
                places, width = positions(held, union, step.span), union.bit_count() * step.span
                spread = Spread(width=width, places=places, axis=step.axis)
                changed[source] = self._call(node, f"spread_{source.name}", spread, self._value(source))
        return self._copy(node, changed)

    def _extreme(self, step: Extreme, node: fx.Node) -> fx.Node:
        left, right = step.sets(self.live)
        if left and right:
            return self._spread_both(step, node)
        value = self._value(self._source(step, 0 if left else 1))
        bound = "min" if name_of(node) in ("max", "maximum") else "max"
        return self.new.call_function(torch.clamp, (value,), {bound: 0})

    def _expanded(self, step: Expanded, node: fx.Node) -> fx.Node:
        what, like = (self._value(self._source(step, place)) for place in (0, -1))
        shape = self.graph.traced.values[node].shape
        sizes = [self.new.call_method("size", (like, dim)) for dim in range(2, len(shape))]
        return self.new.call_method("expand", (what, -1, shape[1] if step.axis is None else -1, *sizes))

    def _multiply(self, step: Multiply, node: fx.Node) -> fx.Node:
        both, dims = self.live[step.index], len(self.graph.traced.values[node].shape)
        assert step.axis is not None
        changed: dict[fx.Node, fx.Node] = {}
        for place, held in enumerate(step.sets(self.live)):
            source = self._source(step, place)
            shape = self.graph.traced.values[source].shape
            axis = step.axis - dims + len(shape)  # shapes are aligned at the last dimension
            if axis >= 0 and shape[axis] == step.width * step.span:
                changed[source] = self._gathered(node, source, held, both, step.span, axis)
        return self._copy(node, changed)

    def _cat(self, step: Cat, node: fx.Node) -> fx.Node:
        pieces = [self.graph.nodes[source] for source in step.inputs if self.live[source]]
        if len(pieces) == 1:
            return self._alias(node, pieces[0])
        return self.new.call_function(torch.cat, ([self._value(piece) for piece in pieces], step.axis))

    def _split(self, step: Split, node: fx.Node) -> fx.Node:
        if not step.widths:
            return self._copy(node)
        sizes, start = [], 0
        for width in step.widths:
            sizes.append((self.live[step.index] >> start & full(width)).bit_count() * step.span)
            start += width
        return self.new.call_function(torch.split, (self._value(self._source(step, 0)), sizes, step.axis))

    def _piece(self, step: Piece, node: fx.Node) -> fx.Node:
        source = self.graph.steps[step.inputs[0]]
        if isinstance(source, Split):
            return self._copy(node)
        held = self.live[source.index]
        start = (held & full(step.offset)).bit_count() * step.span
        stop = start + self.live[step.index].bit_count() * step.span
        assert source.axis is not None
        dims = len(self.graph.traced.values[self._source(step, 0)].shape)
        items = one_for_each(node.args[1], dims)
        assert items is not None
        items[source.axis] = slice(start, stop)
        wanted = map_arg(tuple(items), lambda other: self.written[other])
        return self.new.call_function(operator.getitem, (self._value(self._source(step, 0)), wanted))

    def _unfolded(self, step: Unfolded, node: fx.Node) -> fx.Node:
        return self._value(self._source(step, 0))

    def _reorder(self, step: Reorder, node: fx.Node) -> fx.Node:
        ranks = {channel: rank for rank, channel in enumerate(to_indices(self.live[step.inputs[0]]))}
        places = [ranks[channel] for channel in step.order if channel in ranks]
        return self._call(node, "order", Gather(places=places, axis=1), self._value(self._source(step, 0)))

    def _shift(self, step: Shift, node: fx.Node) -> fx.Node:
        source = self._source(step, 0)
        dims = len(self.graph.traced.values[source].shape)
        assert step.axis is not None
        pads, _, _ = pad_arguments(lambda amount: self.graph.traced.values.get(amount, amount), node)
        place = 2 * (dims - 1 - step.axis)
        if any(channel_padding(pads, dims, step.axis)):
            pads[place : place + 2] = [0, 0]
        if any(pads):
            return self.new.call_function(F.pad, (self._value(source), pads))
        return self._alias(node, source)

    def _reshape(self, step: Reshape, node: fx.Node) -> fx.Node:
        source = self._source(step, 0)
        shape = self.graph.traced.values[node].shape
        if len(shape) == 2:
            return self.new.call_function(torch.flatten, (self._alias(node, source), 1))
        if shape == self.graph.traced.values[source].shape:
            return self._alias(node, source)
        if len(shape) == 3 < len(self.graph.traced.values[source].shape):
            return self.new.call_function(torch.flatten, (self._alias(node, source), 2))
        width = self.live[step.index].bit_count() * step.span
        return self.new.call_method("reshape", (self._alias(node, source), -1, width, *shape[2:]))

    def _regroup(self, step: Regroup, node: fx.Node) -> fx.Node:
        return self._resized(node, self._source(step, 0), step.axis, self.live[step.index].bit_count() * step.span)

    def _heads(self, step: Heads, node: fx.Node) -> fx.Node:
        """A head that has lost some of its channels has zeros there."""
        source = self._source(step, 0)
        held, wanted = self.live[step.inputs[0]], step.channels(self.live[step.index])
        changed: dict[fx.Node, fx.Node] = {}
        if held != wanted:
            axis = self.graph.steps[step.inputs[0]].axis
            assert axis is not None
            spread = Spread(width=wanted.bit_count(), places=positions(held, wanted), axis=axis)
            changed[source] = self._call(node, f"spread_{source.name}", spread, self._value(source))
        return self._resized(node, source, step.axis, self.live[step.index].bit_count(), changed)

    def _resized(
        self, node: fx.Node, source: fx.Node, axis: int | None, size: int, changed: dict[fx.Node, fx.Node] | None = None
    ) -> fx.Node:
        """A reshape with another size of the channels; those of the image and the batch stay as they are written."""
        sizes = flat(node.args[1:])
        assert axis is not None
        if name_of(node) not in ("view", "reshape") or self.graph.traced.values[node].dim() != len(sizes):
            return self._copy(node, changed)  # it names no sizes
        sizes[axis] = size
        value = (changed or {}).get(source) or self._alias(node, source)
        return self.new.call_method("reshape", (value, *map_arg(tuple(sizes), lambda other: self.written[other])))

    def _by_head(self, step: HeadProduct | Attend | Weights, node: fx.Node) -> fx.Node:
        """The heads of the result, of all tensors that have some."""
        wanted, changed = self.live[step.index], dict[fx.Node, fx.Node]()
        for index, axis in zip(step.inputs, step.axes, strict=True):
            source, own = self.graph.nodes[index], self.graph.steps[index]
            if axis is not None:
                held = full(step.width) if own.axis is None else self.live[index]
                changed[source] = self._gathered(node, source, held, wanted, 1, axis)
        return self._copy(node, changed)

    def _mix(self, step: Mix, node: fx.Node) -> fx.Node:
        if step.complete:
            return self._opaque(step, node)
        source = self._source(step, 0)
        held, wanted = step.source(self.live), step.features(self.live, self.choice)
        axis = 1 if isinstance(self.root.get_submodule(step.module), nn.modules.conv._ConvNd) else step.axis
        assert axis is not None
        if widen(held, step.in_span) == wanted:
            return self._copy(node)
        return self._copy(node, {source: self._gathered(node, source, widen(held, step.in_span), wanted, 1, axis)})

    def _grouped(self, step: Grouped, node: fx.Node) -> fx.Node:
        """Groups that write nothing any more read nothing."""
        source, wanted = self._source(step, 0), step.read(self.live, self.choice)
        return self._copy(node, {source: self._gathered(node, source, self.live[step.inputs[0]], wanted, 1, 1)})

    def _opaque(self, step: Step, node: fx.Node) -> fx.Node:
        """Channels that a shortcut padded are zeros in a tensor that is read as a whole."""
        changed: dict[fx.Node, fx.Node] = {}
        for index in step.inputs:
            source, live = self.graph.steps[index], self.live[index]
            if source.axis is not None and live != full(source.width):
                fields: dict[str, Any] = {"width": source.width * source.span, "axis": source.axis}
                held = self.graph.nodes[index]
                spread = Spread(places=to_indices(live, source.span), **fields)
                changed[held] = self._call(node, f"spread_{held.name}", spread, self._value(held))
        return self._copy(node, changed)


_RULES: dict[type[Step], Callable[..., Any]] = {
    ChannelCount: Writer._count,
    Regroup: Writer._regroup,
    Heads: Writer._heads,
    HeadProduct: Writer._by_head,
    Attend: Writer._by_head,
    Weights: Writer._by_head,
    Multiply: Writer._multiply,  # before Add, of which it is one
    Subtract: Writer._subtract,
    Extreme: Writer._extreme,
    Expanded: Writer._expanded,
    Add: Writer._add,
    Cat: Writer._cat,
    Split: Writer._split,
    Piece: Writer._piece,
    Shift: Writer._shift,
    Reshape: Writer._reshape,
    Unfolded: Writer._unfolded,
    Reorder: Writer._reorder,
    Mix: Writer._mix,
    Grouped: Writer._grouped,
    Opaque: Writer._opaque,
}
