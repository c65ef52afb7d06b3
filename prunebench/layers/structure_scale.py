"""A scale behind a layer for each channel, for groups of them or for all together, and the step that makes it 0.

Huang, Wang: Data-Driven Sparse Structure Selection for Deep Neural Networks, ECCV 2018; official code
TuSimple/sparse-structure-selection, ``core/optimizer.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def soft_threshold(x: Tensor, amount: float) -> Tensor:
    """``sign(x) * max(0, |x| - amount)``: exactly 0 where |x| <= amount."""
    return x.sign() * (x.abs() - amount).clamp_min(0.0)


def accelerated_step(
    before: Tensor,
    moved: Tensor,
    velocity: Tensor,
    *,
    lr: float,
    penalty: float,
    momentum: float,
    nonnegative: bool = True,
) -> tuple[Tensor, Tensor]:
    """One step of accelerated proximal gradient in the form with a momentum (section 3.3; core/optimizer.py:30-42).

    Args:
        before: the scales before the step.
        moved: the same after the gradient step ``before - lr * gradient``.
        velocity: of the step before.
        lr: learning rate of the step.
        penalty: weight of the L1 norm.
        momentum: in [0, 1]; 0 = plain ISTA.
        nonnegative: clip the scales at 0, as the official code does.

    Returns:
        The new scales and velocity.
    """
    shrunk = soft_threshold(moved, lr * penalty)
    velocity = shrunk - before + momentum * velocity
    scales = shrunk + momentum * velocity
    return scales.clamp_min(0.0) if nonnegative else scales, velocity


_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)


class ScaledLayer(nn.Module):
    """``layer``, whose channels are multiplied by scales that begin at 1.

    Args:
        layer: a convolution, linear or norm layer; the channels are the second dimension of its output, or the last one
            of a linear layer's and a layer norm's.
        channels: of the layer.
        size: number of scales; each is that of ``channels / size`` neighbours.

    Attributes:
        scale: ``[size]``.
        velocity: of the accelerated step, ``[size]``.
    """

    velocity: Tensor

    def __init__(self, layer: nn.Module, *, channels: int, size: int) -> None:
        super().__init__()
        assert channels % size == 0, f"{size} scales do not divide {channels} channels"
        self.layer = layer
        self.each = channels // size
        device = next(layer.parameters()).device
        self.scale = nn.Parameter(torch.ones(size, device=device))
        self.register_buffer("velocity", torch.zeros(size, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, ...]`` to the layer's output ``[batch, channels, ...]``, scaled."""
        y: Tensor = self.layer(x)
        # under autocast the tensor is narrower than the scales, and the product must not widen it
        last = isinstance(self.layer, _LAST)
        return y * self.per_channel().to(y.dtype).view(-1, *[1] * (0 if last else y.dim() - 2))

    def per_channel(self) -> Tensor:
        """The scale of each channel, ``[channels]``."""
        return self.scale.repeat_interleave(self.each)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The layer with the scales in its weights (and biases), in place; without scales."""
        scales = self.per_channel()
        for parameter in self.layer.parameters(recurse=False):
            parameter.mul_(scales.view(-1, *[1] * (parameter.dim() - 1)))
        return self.layer


def scaled_layers(net: nn.Module) -> dict[str, ScaledLayer]:
    """Path -> all of them, in the order of the net's modules."""
    return {name: module for name, module in net.named_modules() if isinstance(module, ScaledLayer)}
