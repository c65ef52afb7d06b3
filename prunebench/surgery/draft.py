"""The graph of the small net while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from prunebench.layers.attention import Attention
from prunebench.layers.scatter import Gather
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.modes import DROPPED, attention_arguments
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits, positions
from prunebench.surgery.steps import Step


class Draft:
    """The graph of the small net as far as it is written, and what the rules of all kinds of operations need.

    Args:
        root: gets the modules that scatter and gather.
        graph, plan: as in :func:`prunebench.surgery.shrink.shrink`.
        narrow: step -> the channels that its tensor may come with instead of those that ``plan`` keeps.
    """

    def __init__(self, root: nn.Module, graph: ChannelGraph, plan: Plan, narrow: Mapping[int, Bits]) -> None:
        self.root = root
        self.graph = graph
        self.narrow = narrow
        self.live, self.choice = graph.live(plan)
        self.needed = graph.needed(self.live)
        self.new = fx.Graph()
        self.written: dict[fx.Node, Any] = {}

    def value(self, node: fx.Node) -> fx.Node:
        """What stands for an operation of the dense net that returns a tensor."""
        value = self.written[node]
        assert isinstance(value, fx.Node)
        return value

    def copy(self, node: fx.Node, changed: dict[fx.Node, Any] | None = None) -> fx.Node:
        """The operation as it is, on other tensors and sizes where ``changed`` has some."""
        written = self.written | (changed or {})
        if DROPPED in node.meta:
            given = {
                name: map_arg(value, lambda other: written[other]) for name, value in attention_arguments(node).items()
            }
            tensors = [given.pop(name) for name in ("query", "key", "value")]
            called = self.call(node, "module", Attention(node.meta[DROPPED]), *tensors)
            called.kwargs = {name: value for name, value in given.items() if name != "dropout_p"}
            return called
        copied: fx.Node = self.new.node_copy(node, lambda other: written[other])
        copied.type = None  # an annotation that is a text (from __future__ import annotations) cannot be pickled
        return copied

    def call(self, node: fx.Node, suffix: str, module: nn.Module, *inputs: Any) -> fx.Node:
        """Call a module that the dense net does not have."""
        name = f"{node.name}_{suffix}"
        while hasattr(self.root, name):
            name += "_"
        self.root.add_module(name, module)
        called: fx.Node = self.new.call_module(name, inputs)
        return called

    def source(self, step: Step, place: int) -> fx.Node:
        """The operation of the dense net that a step reads."""
        return self.graph.nodes[step.inputs[place]]

    def alias(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """The tensor itself where the dense net made a new one: a copy if somebody writes into either."""
        value = self.value(source)
        if self.graph.traced.memory.is_written(node, source):
            return self.new.call_method("clone", (value,))
        return value

    def gathered(self, node: fx.Node, source: fx.Node, held: Bits, wanted: Bits, span: int, axis: int) -> fx.Node:
        """The channels ``wanted`` of a tensor that has those of ``held``."""
        value = self.value(source)
        if held == wanted:
            return value
        return self.call(node, f"gather_{source.name}", Gather(places=positions(wanted, held, span), axis=axis), value)
