"""The graph of the small net, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from prunebench.layers.scatter import Constant, Spread
from prunebench.surgery import write_shapes, write_sums
from prunebench.surgery.draft import Draft
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.heads import Attend, HeadProduct, Heads, Regroup, Weights
from prunebench.surgery.layer_steps import Grouped, Mix
from prunebench.surgery.modes import DROPOUTS
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits, full, to_indices, widen
from prunebench.surgery.steps import (
    Add,
    Cat,
    ChannelCount,
    Expanded,
    Extreme,
    Filled,
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


def write(root: nn.Module, graph: ChannelGraph, plan: Plan, narrow: Mapping[int, Bits]) -> fx.Graph:
    """The operations of the net in which a plan is carried out.

    Args:
        root: gets the modules that scatter and gather.
        graph, plan: as in :func:`prunebench.surgery.shrink.shrink`.
        narrow: see :func:`prunebench.surgery.narrow_form.narrow_form`.
    """
    draft = Draft(root, graph, plan, narrow)
    for step, node in zip(graph.steps, graph.nodes, strict=True):
        if draft.needed[step.index]:
            draft.written[node] = _operation(draft, step, node)
    return draft.new


def _operation(draft: Draft, step: Step, node: fx.Node) -> Any:
    for kind, rule in _RULES.items():
        if isinstance(step, kind):
            return rule(draft, step, node)
    if node.target in DROPOUTS and node in draft.graph.traced.dropouts:
        return _dropout(draft, node)
    if node.op == "get_attr" and str(node.target) in draft.graph.traced.constants:
        return _constant(draft, node)
    return draft.copy(node)


def _dropout(draft: Draft, node: fx.Node) -> fx.Node:
    given = dict(zip(("p", "training", "inplace"), node.args[1:], strict=False)) | dict(node.kwargs)
    options = {name: given[name] for name in ("p", "inplace") if name in given}
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return draft.call(node, "module", DROPOUTS[node.target](**options), draft.value(source))


def _constant(draft: Draft, node: fx.Node) -> fx.Node:
    """A tensor that is not stored with the net: its own one, unless the forward pass makes it."""
    path, _, last = str(node.target).rpartition(".")
    made = draft.graph.traced.constants[str(node.target)]
    return draft.call(node, "constant", Constant(getattr(draft.root.get_submodule(path), last, made)))


def _count(draft: Draft, step: Step, node: fx.Node) -> int:
    value = draft.graph.traced.values[node]
    assert isinstance(value, int)
    return value


def _mix(draft: Draft, step: Mix, node: fx.Node) -> fx.Node:
    if step.complete:
        return _opaque(draft, step, node)
    source = draft.source(step, 0)
    held, wanted = step.source(draft.live), step.features(draft.live, draft.choice)
    axis = 1 if isinstance(draft.root.get_submodule(step.module), nn.modules.conv._ConvNd) else step.axis
    assert axis is not None
    if widen(held, step.in_span) == wanted:
        return draft.copy(node)
    return draft.copy(node, {source: draft.gathered(node, source, widen(held, step.in_span), wanted, 1, axis)})


def _grouped(draft: Draft, step: Grouped, node: fx.Node) -> fx.Node:
    """Groups that write nothing any more read nothing."""
    source, wanted = draft.source(step, 0), step.read(draft.live, draft.choice)
    return draft.copy(node, {source: draft.gathered(node, source, draft.live[step.inputs[0]], wanted, 1, 1)})


def _opaque(draft: Draft, step: Step, node: fx.Node) -> fx.Node:
    """Channels that a shortcut padded are zeros in a tensor that is read as a whole."""
    changed: dict[fx.Node, fx.Node] = {}
    for index in step.inputs:
        source, live = draft.graph.steps[index], draft.live[index]
        if source.axis is not None and live != full(source.width):
            fields: dict[str, Any] = {"width": source.width * source.span, "axis": source.axis}
            held = draft.graph.nodes[index]
            spread = Spread(places=to_indices(live, source.span), **fields)
            changed[held] = draft.call(node, f"spread_{held.name}", spread, draft.value(held))
    return draft.copy(node, changed)


_RULES: dict[type[Step], Callable[..., Any]] = {
    ChannelCount: _count,
    Filled: write_shapes.filled,
    Regroup: write_shapes.regroup,
    Heads: write_shapes.heads,
    HeadProduct: write_shapes.by_head,
    Attend: write_shapes.by_head,
    Weights: write_shapes.by_head,
    Multiply: write_sums.multiply,  # before Add, of which it is one
    Subtract: write_sums.subtract,
    Extreme: write_sums.extreme,
    Expanded: write_sums.expanded,
    Add: write_sums.add,
    Cat: write_sums.cat,
    Split: write_shapes.split,
    Piece: write_shapes.piece,
    Shift: write_shapes.shift,
    Reshape: write_shapes.reshape,
    Unfolded: write_shapes.unfolded,
    Reorder: write_shapes.reorder,
    Mix: _mix,
    Grouped: _grouped,
    Opaque: _opaque,
}
