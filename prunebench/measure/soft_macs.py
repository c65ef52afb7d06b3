"""Sizes of a net whose channels are there by shares: what a plan leaves where each share is 0 or 1, with gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.steps import Add, Cat, Expanded, Multiply, PerChannel, Reorder, Shift, Step, Through


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
            if isinstance(step, Mix | Grouped):
                total = total + step.macs_each * num_in * found.sum()
            elif isinstance(step, Depthwise) and found is not None:
                total = total + step.macs_each * found.sum()
            else:
                total = total + step.macs
        return total

    def params(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Parameters, a scalar; ``shares`` as for the call."""
        total = torch.full((), float(self._fixed_params), dtype=torch.float64, device=_device(shares))
        for step, num_in, found in self._walk(shares):
            if isinstance(step, Mix | Grouped):
                total = total + (step.params_each * num_in + step.has_bias) * found.sum()
            elif isinstance(step, Depthwise | PerChannel):
                found = _ones(step.width, total.device) if found is None else found
                each = step.num_each * step.span if isinstance(step, PerChannel) else step.params_each
                total = total + each * found.sum()
        return total

    def _walk(self, shares: Mapping[str, Tensor]) -> Iterator[tuple[Step, Any, Any]]:
        """Each step with the number of inputs of one output of a layer, and the shares of its output's channels."""
        device = _device(shares)
        live: list[Tensor | None] = []  # None = complete, whatever its dimensions mean
        for step in self._steps:
            num_in: Any = None
            found: Tensor | None
            if isinstance(step, Mix):
                source = live[step.inputs[0]]
                num_in = step.in_width if source is None or step.whole or step.complete else source.sum()
                num_in = num_in * step.in_span
                written = _ones(step.width, device)
                if step.module in shares:
                    written = shares[step.module].double()
                followed = None if step.follows is None else live[step.follows]
                found = written if followed is None else torch.minimum(written, followed)  # a gate of other channels
            elif isinstance(step, Grouped):
                num_in, found = _grouped(step, live[step.inputs[0]], shares)
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
        case Reorder():
            piece = live[step.inputs[0]]
            return None if piece is None else piece[torch.tensor(step.order, device=device)]
        case Through() | Expanded():
            return None if step.axis is None else live[step.inputs[0]]
        case _:
            return None


def _grouped(step: Grouped, source: Tensor | None, shares: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """How many channels each group that is left reads, and the shares of what is written."""
    device = _device(shares)
    held = (_ones(step.width // step.writes * step.reads, device) if source is None else source).view(-1, step.reads)
    left = held.amax(1)
    own = shares[step.module].double() if step.module in shares else _ones(step.width, device)
    return held.sum() / left.sum().clamp_min(1e-12), own * left.repeat_interleave(step.writes)


def _ones(width: int, device: torch.device) -> Tensor:
    return torch.ones(width, dtype=torch.float64, device=device)
