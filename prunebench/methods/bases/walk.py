"""Running a net layer by layer on the same pictures, while the layers in front of the present one are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.trace import Traced

Take = Callable[[Tensor, slice], Tensor]
"""(value of an operation for some pictures, their places among all of them) -> samples ``[n, ...]``."""
AT_ONCE = 50
"""Pictures that go through a net together: their activations stay near the processor."""
MEMORY = 8 << 30
"""Bytes of activations that a walk keeps; pictures beyond them start anew for each layer."""


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
