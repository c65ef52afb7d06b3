"""Rebuilding layers from samples: a net is read at drawn positions, layer after layer, while its weights change.

What the methods have in common that ask how well the output of a layer can be rebuilt from some of its input channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from prunebench.budget import Choice
from prunebench.core.context import Extracted, Run
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.steps import Mix
from prunebench.surgery.trace import Traced

Take = Callable[[Tensor, slice], Tensor]
"""(value of an operation for some pictures, their places among all of them) -> samples ``[n, ...]``."""
AT_ONCE = 50
"""Pictures that go through a net together: their activations stay near the processor."""
MEMORY = 8 << 30
"""Bytes of activations that a walk keeps; pictures beyond them start anew for each layer."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A layer that reads channels: a 2-d convolution without groups, or a linear layer.

    Attributes:
        name: path of the module; ``module``: it, for its options alone.
        step: its operation; ``source``: the operation whose channels it reads.
        width: number of these channels.
        span: features of one channel: 1, but behind a flatten height x width.
        taps: weights of one channel and one output: these features, or the positions of the kernel.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    step: int
    source: int
    width: int
    span: int
    taps: int

    @classmethod
    def of(cls, graph: ChannelGraph, name: str) -> Reader | None:
        """The layer ``name``; None if it is neither, or its channels cannot be followed."""
        module = graph.traced.net.get_submodule(name)
        step = next((s for s in graph.steps if isinstance(s, Mix) and s.module == name and not s.complete), None)
        if step is None or not isinstance(module, nn.Conv2d | nn.Linear):
            return None
        fields = {"step": step.index, "source": step.inputs[0], "width": step.in_width, "span": step.in_span}
        return cls(name=name, module=module, taps=step.in_span * graph.layers[name].kernel_area, **fields)

    def weight(self, net: nn.Module) -> Tensor:
        """``[outputs, width, taps]``."""
        weight = net.get_parameter(f"{self.name}.weight").detach()
        return weight.reshape(len(weight), self.width, self.taps)

    def set_weight(self, net: nn.Module, weight: Tensor) -> None:
        """Write a weight of that shape into ``net``."""
        held = net.get_parameter(f"{self.name}.weight").data
        held.copy_(weight.reshape(held.shape))

    def windows(self, places: Tensor) -> Take:
        """What the layer reads for each place of its output: ``[n, width, taps]``.

        Args:
            places: positions, counted row by row, ``[pictures, places]``.
        """

        def take(x: Tensor, rows: slice) -> Tensor:
            at, conv = places[rows].to(x.device), self.module
            found = _patches(conv, x, at) if isinstance(conv, nn.Conv2d) else _features(x, at, axis=-1)
            return found.reshape(-1, self.width, self.taps)

        return take

    def outputs(self, places: Tensor) -> Take:
        """What the layer, or an operation of its shape, gives at each place: ``[n, outputs]``."""
        axis = 1 if isinstance(self.module, nn.Conv2d) else -1
        return lambda y, rows: _features(y, places[rows].to(y.device), axis=axis)


def _features(x: Tensor, places: Tensor, *, axis: int) -> Tensor:
    """All channels (dimension ``axis``) at places among the other dimensions: ``[n, channels]``."""
    flat = x.movedim(axis, -1).reshape(len(x), -1, x.shape[axis])
    return flat[torch.arange(len(x), device=x.device)[:, None], places].flatten(0, 1)


def _patches(conv: nn.Conv2d, x: Tensor, places: Tensor) -> Tensor:
    """The padded input under the kernel, ``[n, channels, kernel height, kernel width]``."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    span = conv.dilation[1] * (conv.kernel_size[1] - 1) + 1
    columns = (x.shape[-1] - span) // conv.stride[1] + 1  # of the output
    corners = (places // columns * conv.stride[0], places % columns * conv.stride[1])
    row, column = (
        corner[..., None] + torch.arange(size, device=x.device) * dilation
        for corner, size, dilation in zip(corners, conv.kernel_size, conv.dilation, strict=True)
    )
    picture = torch.arange(len(x), device=x.device)[:, None, None, None]
    found = x[picture, :, row[..., :, None], column[..., None, :]]  # [pictures, places, height, width, channels]
    return found.flatten(0, 1).movedim(-1, 1)


class Walk:
    """Runs a net on some pictures as far as it is asked to, and goes on from there the next time.

    Layers are rebuilt from input to output, so what lies before the present one is final and is computed once.

    Args:
        net: with the dense net's shapes, in evaluation mode. Its weights may change behind the place that was reached.
        graph: of the dense net.
        pictures: ``[pictures, ...]``, on the net's device.
        memory: bytes of activations that are kept.
    """

    def __init__(self, net: nn.Module, graph: ChannelGraph, pictures: Tensor, *, memory: int = MEMORY) -> None:
        self._runner = _Runner(net, graph.traced)
        self._nodes = graph.nodes
        self._pictures = pictures.split(AT_ONCE)
        self._free = memory
        self._saved: dict[int, tuple[dict[fx.Node, Any], int]] = {}

    @torch.no_grad()
    def read(self, wanted: Mapping[str, tuple[int, Take]], *, before: int) -> dict[str, Tensor]:
        """Samples of the values of some operations.

        Args:
            wanted: name -> the operation and what to take of its value.
            before: the operation in front of which the walk stays.

        Returns:
            Name -> the samples of all pictures, ``[n, ...]``.
        """
        notes = _Notes(wanted)
        for number, pictures in enumerate(self._pictures):
            notes.next(len(pictures))
            values, place = self._resume(number)
            for index, node in enumerate(self._nodes[:place]):
                if index in notes:  # it was computed before
                    notes.take(index, values[node])
            self._run(values, range(place, before), pictures, notes)
            place = max(place, before)
            self._save(number, values, place)
            # what comes now is not final: on copies, since an operation may write in place
            ahead = {node: v.clone() if isinstance(v, Tensor) else v for node, v in values.items()}
            self._run(ahead, range(place, notes.last + 1), pictures, notes)
        return notes.joined()

    def _run(self, values: dict[fx.Node, Any], steps: range, pictures: Tensor, notes: _Notes) -> None:
        self._runner.env = values
        for index in steps:
            node = self._nodes[index]
            values[node] = pictures if node.op == "placeholder" else self._runner.run_node(node)
            notes.take(index, values[node])
            for done in self._runner.user_to_last_uses.get(node, ()):
                values.pop(done, None)

    def _resume(self, number: int) -> tuple[dict[fx.Node, Any], int]:
        if number not in self._saved:
            return {}, 0
        values, place = self._saved.pop(number)
        self._free += _bytes(values)
        return values, place

    def _save(self, number: int, values: dict[fx.Node, Any], place: int) -> None:
        if (size := _bytes(values)) <= self._free:
            self._free -= size
            self._saved[number] = values, place


class _Notes:
    """Samples as they come: operation by operation, some pictures after the others."""

    def __init__(self, wanted: Mapping[str, tuple[int, Take]]) -> None:
        self._found: dict[str, list[Tensor]] = {name: [] for name in wanted}
        self._at: dict[int, list[tuple[str, Take]]] = {}
        for name, (index, take) in wanted.items():
            self._at.setdefault(index, []).append((name, take))
        self._rows = slice(0, 0)
        self.last = max(self._at)

    def __contains__(self, index: int) -> bool:
        return index in self._at

    def next(self, num_pictures: int) -> None:
        self._rows = slice(self._rows.stop, self._rows.stop + num_pictures)

    def take(self, index: int, value: Any) -> None:
        for name, take in self._at.get(index, ()):
            self._found[name].append(take(value, self._rows).clone())

    def joined(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in self._found.items()}


class _Runner(fx.Interpreter):
    """The operations of a traced net with the weights of another one of its shapes."""

    def __init__(self, net: nn.Module, traced: Traced) -> None:
        super().__init__(net, graph=traced.graph)
        self._device = next(net.parameters()).device
        self._constants = traced.constants

    def fetch_attr(self, target: str) -> Any:
        if target in self._constants:
            return self._constants[target].to(self._device)
        return super().fetch_attr(target)


def _bytes(values: Mapping[fx.Node, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values.values() if isinstance(value, Tensor))


def draw_places(num_pictures: int, number: int, positions: int, *, draws: torch.Generator, distinct: bool) -> Tensor:
    """Positions of a map, ``[pictures, places]``: ``number`` for each picture; all of a smaller one if they differ."""
    if not distinct:
        return torch.randint(positions, (num_pictures, number), generator=draws)
    return torch.stack([torch.randperm(positions, generator=draws)[:number] for _ in range(num_pictures)])


@dataclass(frozen=True)
class Rebuilt:
    """What was found at a cut: the channels, and the tensors of the net's state that have new values."""

    choice: Choice
    tensors: Mapping[str, Tensor]


def carry_out(net: nn.Module, run: Run, rebuild: Callable[[], Rebuilt]) -> Extracted:
    """The cut of ``net`` (dense shapes) that ``rebuild`` finds; a resumed run repeats what is stored."""
    assert run.phase is not None
    found = cache(rebuild)
    choice = run.choose(lambda: found().choice)
    tensors = run.once_tensors(f"rebuilt-{run.phase.name}", lambda: found().tensors)
    net = copy.deepcopy(net)
    state = net.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    return run.cut(net, choice)
