"""What the rules know while the steps of a net are built."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunebench.surgery.places import describe
from prunebench.surgery.sets import Bits
from prunebench.surgery.steps import Choice, Reshape, Step, Through
from prunebench.surgery.trace import Traced


class Context:
    """The steps so far and the shapes of all nodes.

    Args:
        traced: the graph with its shapes.
        net: the dense net.
        shared: modules that are used more than once, with the reason.
    """

    def __init__(self, traced: Traced, net: nn.Module, shared: dict[str, str]) -> None:
        self.traced = traced
        self.net = traced.net
        self.shared = shared
        self.steps: list[Step] = []
        self.composed: dict[fx.Node, tuple[fx.Node, float]] = {}  # kept by prunebench.surgery.composed
        self._live: list[Bits] = []
        self._places: dict[fx.Node, int] = {}
        self._names: dict[int, str] = {}  # a tied parameter has one name
        for name, parameter in net.named_parameters():
            self._names.setdefault(id(parameter), name)
        self._owner = {
            name: self._names[id(parameter)] for name, parameter in net.named_parameters(remove_duplicate=False)
        }

    @property
    def index(self) -> int:
        """Of the step that is being made."""
        return len(self.steps)

    def append(self, node: fx.Node, step: Step) -> None:
        """The next node's step."""
        assert step.index == self.index
        self._places[node] = step.index
        self.steps.append(step)
        self._live.append(step.live(self._live, Choice()))

    def of(self, node: Any) -> Step | None:
        """The step of a node, None for a literal."""
        return self.steps[self._places[node]] if isinstance(node, fx.Node) else None

    def first(self, node: fx.Node) -> Step | None:
        """The step of the first argument."""
        return self.of(node.args[0]) if node.args else None

    def value(self, node: Any) -> Any:
        """What a node returns for two samples; a literal is its own value."""
        return self.traced.values[node] if isinstance(node, fx.Node) else node

    def shape(self, node: Any) -> torch.Size | None:
        """Shape of a tensor for two samples, None for anything else."""
        value = self.value(node)
        return value.shape if isinstance(value, Tensor) else None

    def num_spatial(self, node: fx.Node) -> int | None:
        """Dimensions of the image, where input and output are images with the same channels."""
        source, before, after = self.first(node), self.shape(node.args[0]) if node.args else None, self.shape(node)
        if source is None or before is None or after is None or source.axis != 1 or source.span != 1:
            return None
        return len(before) - 2 if len(before) == len(after) and before[:2] == after[:2] else None

    def parameters(self, name: str) -> tuple[str, ...]:
        """Parameters at or below a path, each under its first name in the net."""
        inside = [
            own for full_name, own in self._owner.items() if full_name == name or full_name.startswith(f"{name}.")
        ]
        return tuple(dict.fromkeys(inside))

    def why(self, node: fx.Node) -> str:
        """What a node is, for messages."""
        text = describe(node, self.net)
        shared = self.shared.get(str(node.target)) if node.op == "call_module" else None
        return f"{text} ({shared})" if shared else text

    def complete(self, source: int) -> Bits:
        """What is live in a step's output in the dense net: all but the channels that a shortcut pads."""
        return self._live[source]

    def inputs(self, node: fx.Node, *leading: fx.Node) -> tuple[int, ...]:
        """Indices of what a node reads, the named ones first."""
        nodes = [*leading, *(other for other in node.all_input_nodes if other not in leading)]
        return tuple(self._places[other] for other in nodes)

    def base(self, node: fx.Node, *, axis: int | None, width: int, span: int = 1) -> dict[str, Any]:
        """The fields that all steps have, for an operation on its first argument."""
        leading = node.args[0]
        assert isinstance(leading, fx.Node)
        module = str(node.target) if node.op == "call_module" else ""
        inputs = self.inputs(node, leading)
        return {"index": self.index, "inputs": inputs, "axis": axis, "width": width, "span": span, "module": module}

    def through(self, node: fx.Node, kind: type[Through] = Through, **changes: Any) -> Step | None:
        """Channels as in the first argument; None if that is always complete."""
        source = self.first(node)
        if source is None or source.axis is None:
            return None
        fields = self.base(node, axis=source.axis, width=source.width, span=source.span)
        return kind(**(fields | changes))

    def reshape(self, node: fx.Node) -> Step | None:
        """A change of shape that keeps the order: the image is joined to the channels, or has no extent."""
        source, before, after = self.first(node), self.shape(node.args[0]), self.shape(node)
        if source is None or source.axis is None or before is None or after is None:
            return None
        inputs = (source.index,)  # the small net has no use for the sizes
        if before == after:
            return self.through(node, Reshape, inputs=inputs)
        if source.axis != 1 or before[0] != after[0] or len(after) < 2:
            return None
        extent, rest = math.prod(before[2:]), math.prod(after[2:])
        if len(after) == 3 < len(before) and after[1] == before[1]:
            return self.through(node, Reshape, inputs=inputs)
        if after[1] == before[1] * extent and rest == 1:
            return self.through(node, Reshape, inputs=inputs, span=source.span * extent)
        return None
