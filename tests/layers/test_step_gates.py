"""Gates of 0 or 1 in front of layers: values, gradients, places."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.layers.step_gates import InputGates, WeightGates, step


def test_the_value_is_hard_and_the_gradient_soft() -> None:
    score = torch.tensor([-2.0, 0.0, 1e-9, 1.0], requires_grad=True)
    gates = step(score, 0.5)
    assert gates.tolist() == [0, 0, 1, 1]
    (slope,) = torch.autograd.grad(gates.sum(), score)
    # sigmoid'(s / 0.5) / 0.5
    smooth = torch.tensor([0.0179862, 0.5, 0.5, 0.8807971])
    torch.testing.assert_close(slope, smooth * (1 - smooth) / 0.5, atol=1e-6, rtol=1e-4)


def test_a_closed_gate_silences_its_channel_and_still_has_a_gradient() -> None:
    layer = nn.Linear(6, 2)
    gated = InputGates(layer, units=3, span=2, rows=2, temperature=0.5)
    with torch.no_grad():
        gated.score[0, 1] = -1.0
    x = torch.randn(4, 6)
    mask = torch.tensor([1.0, 1, 0, 0, 1, 1])
    torch.testing.assert_close(gated(x), layer(x * mask))
    gated(x).square().sum().backward()
    assert gated.score.grad is not None and bool(gated.score.grad[0].ne(0).all()) and not gated.score.grad[1].any()
    gated.row = 1
    torch.testing.assert_close(gated(x), layer(x))


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3, 7)])
def test_channels_of_a_convolution(shape: tuple[int, ...]) -> None:
    layer = nn.Conv2d(3, 4, 3) if len(shape) == 4 else nn.Conv1d(3, 4, 3)
    gated = InputGates(layer, units=3, span=1, rows=1, temperature=0.5)
    with torch.no_grad():
        gated.score[0, 0] = -1.0
    x = torch.randn(shape)
    without = x.clone()
    without[:, 0] = 0
    torch.testing.assert_close(gated(x), layer(without))


def test_single_weights() -> None:
    layer = nn.Conv2d(2, 3, 3)
    gated = WeightGates(layer, rows=1, temperature=0.5)
    assert gated.score.shape == (1, 3, 2, 3, 3)
    closed = torch.rand(3, 2, 3, 3) < 0.5
    with torch.no_grad():
        gated.score[0][closed] = -1.0
    x = torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(gated(x), torch.conv2d(x, layer.weight * ~closed, layer.bias))
    gated(x).sum().backward()
    assert layer.weight.grad is not None and gated.score.grad is not None
    torch.testing.assert_close(layer.weight.grad == 0, closed)
    assert bool((gated.score.grad[0][closed] != 0).all())
