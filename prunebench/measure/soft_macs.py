"""MACs of a net whose channels are there by shares: what a plan costs where each share is 0 or 1, and has gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.steps import Add, Cat, Depthwise, Grouped, Mix, Multiply, Shift, Step, Through


class SoftMacs:
    """Follows shares of channels through a graph as :meth:`ChannelGraph.live` follows live channels.

    A sum has the larger share of its two inputs, a product the smaller one. With shares of 0 and 1, and at least one
    channel in each layer, the result is :meth:`ChannelGraph.macs` of the plan that keeps the ones.

    Args:
        graph: of the dense net.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._steps = graph.steps

    def __call__(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Multiply-accumulates of one sample, a scalar.

        Args:
            shares: layer -> ``[channels]`` in [0, 1]; other layers are whole.
        """
        device = next(iter(shares.values())).device
        live: list[Tensor | None] = []  # None = complete, whatever its dimensions mean
        total = torch.zeros((), dtype=torch.float64, device=device)
        for step in self._steps:
            if isinstance(step, Mix):
                source = live[step.inputs[0]]
                num_in = step.in_width if source is None or step.whole or step.complete else source.sum()
                found = shares[step.module].double() if step.module in shares else _ones(step.width, device)
                total = total + step.macs_each * step.in_span * num_in * found.sum()
                live.append(found)
            else:
                found_or_none = _passed_on(step, live, device)
                live.append(found_or_none)
                if isinstance(step, Depthwise | Grouped) and found_or_none is not None:
                    total = total + step.macs_each * found_or_none.sum()
                else:
                    total = total + step.macs
        return total


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
