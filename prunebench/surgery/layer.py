"""What a score or a budget may ask of a layer: its sizes, and what stands around it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx, nn

from prunebench.layers.own_weight import has_own_weight
from prunebench.surgery.behind import SLOPE, Behind, is_sum, reads_all
from prunebench.surgery.families import CONVOLUTIONS, LINEAR, TRANSPOSED
from prunebench.surgery.layer_steps import Depthwise, Mix
from prunebench.surgery.module_rules import positions
from prunebench.surgery.steps import (
    Add,
    Cat,
    Expanded,
    Multiply,
    Opaque,
    Output,
    Piece,
    Reorder,
    Shift,
    Step,
    Through,
)
from prunebench.surgery.trace import Traced

Kind = Literal["conv", "depthwise", "grouped", "transposed", "linear"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer of the dense net.

    Attributes:
        name: path of the module.
        kind: "conv", "depthwise" (one group a channel), "grouped", "transposed" (whatever its groups) or "linear".
        in_channels, out_channels, groups, has_bias: of the module (features for a linear layer).
        kernel_area: taps of the kernel, 1 for a linear layer.
        positions: outputs of one channel for one sample: height x width, or tokens.
        norm: the norm layer that reads this layer's output, if nothing else does.
        norm_learns: that norm has a scale and a shift for each channel.
        activation: the f(0) = 0 function after the layer (and its norm), before any addition; None: none, whoever reads
            it does so linearly; :data:`prunebench.surgery.behind.UNKNOWN`: something else, or several.
        slope: of the activation for negative inputs, if it is a leaky ReLU.
        readers: convolutions and linear layers that read its channels, with the same indices, not through an addition.
        meets_addition: some addition reads its channels.
        is_output: its channels are the net's output.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    kernel_area: int
    positions: int
    groups: int
    has_bias: bool
    norm: str | None
    norm_learns: bool = False
    activation: str | None
    slope: float = SLOPE
    readers: tuple[str, ...]
    meets_addition: bool
    is_output: bool

    def by_outputs(self, weight: Tensor) -> Tensor:
        """The layer's weight as ``[out, in, ...]``; a transposed convolution stores it as ``[in, out, ...]``.

        ``in`` is of one group. A bias stays as it is. It is a view, but for groups.
        """
        if self.kind != "transposed" or weight.dim() < 2:
            return weight
        if self.groups == 1:
            return weight.transpose(0, 1)
        by_group = weight.reshape(self.groups, -1, *weight.shape[1:])
        return by_group.transpose(1, 2).flatten(0, 1)


class Surroundings:
    """Follows tensors from layer to layer.

    Args:
        traced: the net's operations.
        steps: their kinds, in the same order.
    """

    def __init__(self, traced: Traced, steps: Sequence[Step]) -> None:
        self._nodes = list(traced.graph.nodes)
        self._traced = traced
        self._steps = steps
        self._readers: list[list[Step]] = [[] for _ in steps]
        for step in steps:
            for source in dict.fromkeys(step.inputs):
                self._readers[source].append(step)
        self._behind = Behind(traced, self._readers)

    def layers(self) -> dict[str, Layer]:
        """All convolutions and linear layers with weights of their own, in the order of execution."""
        found: dict[str, Layer] = {}
        for step, node in zip(self._steps, self._nodes, strict=True):
            module = self._traced.net.get_submodule(step.module) if step.module else None
            if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, *LINEAR)) or step.module in found:
                continue
            if self._has_weight(step):
                found[step.module] = self._layer(step, node, module)
        return found

    def groups(self, layers: Mapping[str, Layer]) -> tuple[tuple[str, ...], ...]:
        """Layers whose channels meet, index by index, in additions; layers that meet none stand alone."""
        leader = {name: name for name, layer in layers.items() if layer.kind != "depthwise"}

        def root(name: str) -> str:
            while leader[name] != name:
                name = leader[name]
            return name

        written = self.writers(leader)
        for step in self._steps:
            if is_sum(step):
                for name in written[step.index][1:]:
                    leader[root(name)] = root(written[step.index][0])
        members: dict[str, list[str]] = {}
        for name in leader:
            members.setdefault(root(name), []).append(name)
        return tuple(tuple(names) for names in members.values())

    def writers(self, known: Collection[str]) -> list[tuple[str, ...]]:
        """For each step the ``known`` layers that write its channels, index by index."""
        written: list[tuple[str, ...]] = []
        for step in self._steps:
            if step.module in known:
                written.append((step.module,))
            elif isinstance(step, Through | Add) or (isinstance(step, Depthwise) and step.multiplier == 1):
                gate = step.gate if isinstance(step, Multiply) else None  # what only scales channels writes none
                names = [name for place, source in enumerate(step.inputs) if place != gate for name in written[source]]
                written.append(tuple(dict.fromkeys(names)))
            else:
                written.append(())
        return written

    def _layer(self, step: Step, node: fx.Node, module: nn.Module) -> Layer:
        shape = self._traced.values[node].shape
        sizes: dict[str, int] = {}
        kind: Kind = "linear"
        if isinstance(module, nn.Linear):
            sizes = {"in_channels": module.in_features, "out_channels": module.out_features}
            sizes |= {"kernel_area": 1, "groups": 1, "positions": positions(self._traced.macs[node], module)}
        else:
            assert isinstance(module, (*CONVOLUTIONS, *TRANSPOSED))
            kind = "conv" if module.groups == 1 else "depthwise" if isinstance(step, Depthwise) else "grouped"
            kind = "transposed" if isinstance(module, TRANSPOSED) else kind
            sizes = {"in_channels": module.in_channels, "out_channels": module.out_channels, "groups": module.groups}
            spots = positions(self._traced.macs[node], module)
            if isinstance(module, TRANSPOSED):  # it multiplies at its inputs
                source = node.args[0]
                assert isinstance(source, fx.Node)
                spots = spots * math.prod(shape[2:]) // math.prod(self._traced.values[source].shape[2:])
            sizes |= {"kernel_area": math.prod(module.kernel_size), "positions": spots}
        norm = self._behind.norm(step)
        activation, slope = self._behind.activation(norm or step)
        readers, meets_addition, is_output = self._downstream(step)
        return Layer(
            **{"name": step.module, "kind": kind, **sizes},  # type: ignore[arg-type]
            has_bias=module.bias is not None,
            norm=norm.module if norm else None,
            norm_learns=norm is not None and norm.num_each == 2,
            activation=activation,
            slope=slope,
            readers=readers,
            meets_addition=meets_addition,
            is_output=is_output,
        )

    def _downstream(self, start: Step) -> tuple[tuple[str, ...], bool, bool]:
        """Readers of a layer's channels, whether an addition reads them, whether the output comes before a layer."""
        readers: set[str] = set()
        meets_addition = is_output = False
        waiting = [(reader, True, True) for reader in self._readers[start.index]]
        seen: set[tuple[int, bool, bool]] = set()
        while waiting:
            step, known, same = waiting.pop()  # whether its input has channels that are known, and their indices
            if (step.index, known, same) in seen:
                continue
            seen.add((step.index, known, same))
            if isinstance(step, Mix) or reads_all(step, self._traced.net):
                if known and same and self._has_weight(step):
                    readers.add(step.module)
                continue
            is_output |= isinstance(step, Output)
            meets_addition |= known and is_sum(step)
            if step.params and isinstance(step, Opaque):  # a recurrent layer, say
                continue
            known = known and isinstance(step, Through | Shift | Cat | Piece | Reorder | Expanded | Add | Depthwise)
            same = same and isinstance(step, Through | Multiply | Depthwise)
            waiting += [(reader, known, same) for reader in self._readers[step.index]]
        return tuple(sorted(readers, key=self._place)), meets_addition, is_output

    def _has_weight(self, step: Step) -> bool:
        """Whether a layer's weight is its own, which a score may look at."""
        return has_own_weight(self._traced.net.get_submodule(step.module))

    def _place(self, module: str) -> int:
        return next(step.index for step in self._steps if step.module == module)
