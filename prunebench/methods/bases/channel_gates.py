"""One number for each channel, multiplied to what a norm layer puts out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.surgery.replace import replace


class ChannelGate(nn.Module):
    """Multiplies each channel by its gate; all gates start at 1, so that the net is the same at first.

    Args:
        channels: of the input.

    Attributes:
        gate: ``[channels]``.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]`` to the same shape and type."""
        # under autocast the tensor is narrower than the gate, and the product must not widen it
        return x * self.gate.to(x.dtype).view(-1, *[1] * (x.dim() - 2))

    @torch.no_grad()
    def clamp(self, low: float, high: float) -> None:
        """Put gates outside ``[low, high]`` on its ends, in place."""
        self.gate.clamp_(low, high)

    def config(self) -> dict[str, Any]:
        """Constructor's arguments."""
        return {"channels": len(self.gate)}

    def extra_repr(self) -> str:
        """Number of channels."""
        return f"channels={len(self.gate)}"


def add_gates(net: nn.Module, norms: Collection[str]) -> nn.Module:
    """A copy of ``net`` with a :class:`ChannelGate` after each of the layers ``norms``, before what follows them.

    Args:
        net: stays as it is.
        norms: paths of layers that have ``num_features``, such as ``nn.BatchNorm2d``; each becomes a pair
            ``norm``, ``gate`` under the same path.
    """

    def gated(path: str, module: nn.Module) -> nn.Module | None:
        if path not in norms:
            return None
        gate = ChannelGate(channels=int(module.num_features))  # type: ignore[arg-type]
        return nn.Sequential(OrderedDict(norm=module, gate=gate.to(next(net.parameters()).device)))

    return replace(net, gated)


def gates_of(net: nn.Module) -> list[ChannelGate]:
    """All gates, in the order of the net's modules."""
    return [module for module in net.modules() if isinstance(module, ChannelGate)]


def density_penalty(gates: Tensor, *, density: float, balance: float) -> Tensor:
    """``balance * (mean |gate| - density)^2`` over all gates of a net, ``[gates]`` -> scalar.

    Wang et al. 2020, Pruning from Scratch; learn_gates.py:97-116 of the official code.
    """
    return balance * (gates.abs().mean() - density) ** 2
