"""Sizes of a net whose channels are there by shares: what a plan leaves where each share is 0 or 1, with gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.steps import Add, Cat, Depthwise, Grouped, Mix, Multiply, PerChannel, Shift, Step, Through


class SoftMacs:
    """Follows shares of channels through a graph as :meth:`ChannelGraph.live` follows live channels.

    A sum has the larger share of its two inputs, a product the smaller one. With shares of 0 and 1, and at least one
    channel in each layer, the results are :meth:`ChannelGraph.macs` and :meth:`ChannelGraph.params` of the plan that
    keeps the ones.

    Args:
        graph: of the dense net.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._steps = graph.steps
        sizes = {name: parameter.numel() for name, parameter in graph.traced.net.named_parameters()}
        fixed = {name for name in graph.unread if name in sizes}
        fixed.update(name for step in graph.steps if not isinstance(step, _CUT) for name in step.params)
        self._fixed_params = sum(sizes[name] for name in fixed)

    def __call__(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Multiply-accumulates of one sample, a scalar.

        Args:
            shares: layer -> ``[channels]`` in [0, 1]; other layers are whole.
        """
        total = torch.zeros((), dtype=torch.float64, device=_device(shares))
        for step, num_in, found in self._walk(shares):
            if isinstance(step, Mix):
                total = total + step.macs_each * num_in * found.sum()
            elif isinstance(step, Depthwise | Grouped) and found is not None:
                total = total + step.macs_each * found.sum()
            else:
                total = total + step.macs
        return total

    def params(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Parameters, a scalar; ``shares`` as for the call."""
        total = torch.full((), float(self._fixed_params), dtype=torch.float64, device=_device(shares))
        for step, num_in, found in self._walk(shares):
            if isinstance(step, Mix):
                total = total + (step.params_each * num_in + step.has_bias) * found.sum()
            elif isinstance(step, Depthwise | Grouped | PerChannel):
                found = _ones(step.width, total.device) if found is None else found
                each = step.num_each * step.span if isinstance(step, PerChannel) else step.params_each
                total = total + each * found.sum()
        return total

    def _walk(self, shares: Mapping[str, Tensor]) -> Iterator[tuple[Step, Any, Any]]:
        """Each step with the number of input features of a :class:`Mix` and the shares of its output's channels."""
        device = _device(shares)
        live: list[Tensor | None] = []  # None = complete, whatever its dimensions mean
        for step in self._steps:
            num_in: Any = None
            if isinstance(step, Mix):
                source = live[step.inputs[0]]
                num_in = step.in_width if source is None or step.whole or step.complete else source.sum()
                num_in = num_in * step.in_span
                found: Tensor | None = _ones(step.width, device)
                if step.module in shares:
                    found = shares[step.module].double()
            else:
                found = _passed_on(step, live, device)
            live.append(found)
            yield step, num_in, found


_CUT = (Mix, Depthwise, Grouped, PerChannel)
"""Steps whose parameters a plan cuts."""


def _device(shares: Mapping[str, Tensor]) -> torch.device:
    return next(iter(shares.values())).device


def _passed_on(step: Step, live: list[Tensor | None], device: torch.device) -> Tensor | None:
    match step:
        case Cat():
            parts = _ones(step.width, device) * 0
            for source, offset, whole in zip(step.inputs, step.offsets, step.whole, strict=True):
                piece = live[source]
                if whole or piece is None:
                    piece = _ones(whole.bit_count(), device)
                before, after = offset, step.width - offset - len(piece)
                parts = parts + torch.nn.functional.pad(piece, (before, after))
            return parts
        case Shift():
            piece = live[step.inputs[0]]
            assert piece is not None
            return torch.nn.functional.pad(piece, (step.offset, step.width - step.offset - len(piece)))
        case Add():  # and Multiply, which is one
            left, right = (
                _ones(step.width, device) if whole or live[source] is None else live[source]
                for source, whole in zip(step.inputs, step.whole, strict=True)
            )
            assert left is not None and right is not None
            return torch.minimum(left, right) if isinstance(step, Multiply) else torch.maximum(left, right)
        case Depthwise():
            piece = live[step.inputs[0]]
            return None if piece is None else piece.repeat_interleave(step.multiplier)
        case Grouped():  # a group is there with all that it reads
            piece = live[step.inputs[0]]
            groups = _ones(step.width // step.writes, device) if piece is None else piece.view(-1, step.reads).mean(1)
            return groups.repeat_interleave(step.writes)
        case Through():
            return live[step.inputs[0]]
        case _:
            return None


def _ones(width: int, device: torch.device) -> Tensor:
    return torch.ones(width, dtype=torch.float64, device=device)
