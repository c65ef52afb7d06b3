"""Gates of 0 or 1 whose gradient is that of a smooth step, on what a layer reads or on its single weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(score)
        ctx.temperature = temperature
        return (score > 0).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (score,) = ctx.saved_tensors
        return grads[0] * sigmoid_slope(score, ctx.temperature), None


def sigmoid_slope(score: Tensor, temperature: float) -> Tensor:
    """Derivative of sigmoid(score / temperature) by the score."""
    smooth = torch.sigmoid(score / temperature)
    return smooth * (1 - smooth) / temperature


def step(score: Tensor, temperature: float) -> Tensor:
    """1 where the score is above 0, else 0; its gradient is that of sigmoid(score / temperature)."""
    gates: Tensor = _Step.apply(score, temperature)  # type: ignore[no-untyped-call]
    return gates


class StepGates(nn.Module):
    """A layer under gates.

    Args:
        layer: a convolution or linear layer, which keeps its weights.
        shape: of the gates.
        rows: so many sets of gates, of which ``row`` is in use.
        temperature: of the surrogate gradient, above 0.

    Attributes:
        score: ``[rows, *shape]``, all 1 at first; a gate is open where its score is above 0.
        row: the set that is in use.
    """

    def __init__(self, layer: nn.Module, *, shape: Sequence[int], rows: int, temperature: float) -> None:
        super().__init__()
        self.layer, self.temperature, self.row = layer, temperature, 0
        self.score = nn.Parameter(torch.ones(rows, *shape, device=next(layer.parameters()).device))

    def gates(self) -> Tensor:
        """Those in use, ``[*shape]`` of 0 and 1."""
        return step(self.score[self.row], self.temperature)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"scores={list(self.score.shape)}"


class InputGates(StepGates):
    """Gates on the channels that a layer reads.

    What stands between the channels and this layer (activation, pooling, flatten) works on each by itself and maps 0
    to 0, so that the gate may as well stand directly behind the activation; a closed gate has a gradient.

    Args:
        units: channels that are read.
        span: input features of each (height x width behind a flatten), neighbours.
    """

    def __init__(self, layer: nn.Module, *, units: int, span: int, rows: int, temperature: float) -> None:
        super().__init__(layer, shape=(units,), rows=rows, temperature=temperature)
        self.span = span

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]``, of a linear layer ``[batch, ..., features]``, to the layer's output."""
        gates = self.gates().to(x.dtype).repeat_interleave(self.span)
        ones = [1] * (0 if isinstance(self.layer, nn.Linear) else x.dim() - 2)
        found: Tensor = self.layer(x * gates.view(-1, *ones))
        return found


class WeightGates(StepGates):
    """A gate on each weight of a layer, ``score [rows, *weight.shape]``."""

    def __init__(self, layer: nn.Module, *, rows: int, temperature: float) -> None:
        shape = layer.get_parameter("weight").shape
        super().__init__(layer, shape=shape, rows=rows, temperature=temperature)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with its open weights."""
        weight = self.layer.get_parameter("weight") * self.gates()
        found: Tensor = torch.func.functional_call(self.layer, {"weight": weight}, (x,))
        return found


def step_gates(net: nn.Module) -> dict[str, StepGates]:
    """Path of the layer -> all gates of a net, in the order of its modules."""
    return {path: module for path, module in net.named_modules() if isinstance(module, StepGates)}
