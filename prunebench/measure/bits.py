"""What a net of few bits stores and multiplies, by formula; none of it is a speed.

BOPs are products of one sample weighted with the bits of both factors. A net that imitates few bits in floating point
takes the time of a float net whatever is counted here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLOAT = 32


@dataclass(frozen=True, kw_only=True)
class LayerBits:
    """One convolution or linear layer.

    Attributes:
        macs: of one sample. ``weights``: how many. ``fan_in``: weights of one output, c_in k^2 without groups.
        bits_w: of a weight. ``bits_a``: of an input.
    """

    macs: int
    weights: int
    fan_in: int
    bits_w: int = FLOAT
    bits_a: int = FLOAT


def weight_bytes(layers: Iterable[LayerBits], *, floats: int) -> float:
    """Sum of n_l b_w / 8, and 4 bytes for each of the ``floats`` others: biases, norms, scales."""
    return sum(layer.weights * layer.bits_w for layer in layers) / 8 + 4 * floats


def bops(layers: Iterable[LayerBits]) -> int:
    """Sum of m_l b_w b_a."""
    return sum(layer.macs * layer.bits_w * layer.bits_a for layer in layers)


def bops_uniq(layers: Iterable[LayerBits]) -> float:
    """Sum of m_l (b_a b_w + b_a + b_w + log2(fan in)), with the sums that accumulate (UNIQ: Baskin et al. 2021)."""
    return sum(
        layer.macs * (layer.bits_a * layer.bits_w + layer.bits_a + layer.bits_w + math.log2(layer.fan_in))
        for layer in layers
    )


def peak_activation_bytes(net: nn.Module, example: Tensor, bits: Mapping[str, int]) -> float:
    """The most that activations take while a layer computes, for one sample.

    Input and output of the layer, and whatever is read later (the other side of an addition). What lies between two
    layers (norms, activation functions) is taken to work in place: an output has the bits of the next layer's input.
    Everything else has 32 bits: sums are kept in floating point.

    Args:
        net: it is left as it is.
        example: inputs; the first one is used.
        bits: path of each convolution and linear layer -> bits of its input.
    """
    net = copy.deepcopy(net).eval()
    trace = _Trace(net, example[:1], bits)
    with torch.no_grad(), trace:
        net(example[:1])
    return trace.peak()


class _Trace(TorchDispatchMode):
    """Which activations there are, from the operation that makes them to the last one that reads them."""

    def __init__(self, net: nn.Module, sample: Tensor, bits: Mapping[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.bits = bits
        self.kept: list[Tensor] = [sample]  # so that no memory is used twice
        self.born: dict[int, int] = {_memory(sample): 0}
        self.read: dict[int, int] = {}
        self.size: dict[int, int] = {_memory(sample): sample.numel()}
        self.calls: list[tuple[str, int, int, int]] = []  # layer, its start, memory of its input and its output
        for name in bits:
            layer = net.get_submodule(name)
            layer.register_forward_pre_hook(self._enter)
            layer.register_forward_hook(self._leave(name))
        self._starts: list[int] = []

    def peak(self) -> float:
        """In bytes."""
        following = [self.bits[name] for name, *_ in self.calls[1:]] + [FLOAT]
        found = [self._bits_alive(*call, after) for call, after in zip(self.calls, following, strict=True)]
        return max(found, default=0) / 8

    def _bits_alive(self, name: str, start: int, given: int, made: int, after: int) -> int:
        others = (
            memory
            for memory, born in self.born.items()
            if born <= start < self.read.get(memory, -1) and memory not in (given, made)
        )
        return (
            sum(self.size[memory] for memory in others) * FLOAT
            + self.size[given] * self.bits[name]
            + self.size[made] * after
        )

    def _enter(self, layer: nn.Module, args: Any) -> None:
        self._starts.append(self.now)

    def _leave(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            start = self._starts.pop()
            self.calls.append((name, start, _memory(args[0]), _memory(output)))
            # what was made inside is the layer's own
            for memory, born in list(self.born.items()):
                if born > start and memory != _memory(output):
                    del self.born[memory]

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.now += 1
        given = [_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        live = [memory for memory in given if memory in self.born]
        for memory in live:
            self.read[memory] = self.now
        for x in tree_leaves(output) if live else ():
            if isinstance(x, Tensor):
                self.kept.append(x)
                self.born.setdefault(_memory(x), self.now)
                self.size[_memory(x)] = max(x.numel(), self.size.get(_memory(x), 0))
        return output


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
