"""Connections behind a unit step: the worked example of four inputs and two outputs, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.layers.connections import PROXIES, Connected, ConnectedLinear, connected, disconnected

VALUES = [[1.0, -2.0, 0.5, 3.0], [0.1, 0.2, -0.3, 0.4]]
MASKS = [[0.5, -0.1, 0.0, -2.0], [1.0, 1.0, 1.0, -1.0]]


def example(proxy: str = "identity") -> ConnectedLinear:
    plain = nn.Linear(4, 2, bias=False)
    layer = connected(plain, granularity="weight", initial=1.0, proxy=proxy)
    assert isinstance(layer, ConnectedLinear) and layer.weight is plain.weight
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(VALUES))
        layer.mask.copy_(torch.tensor(MASKS))
    return layer


def backward(layer: ConnectedLinear) -> float:
    output = layer(torch.tensor([[1.0, 1.0, 2.0, -1.0]]))
    loss = 0.5 * (output - torch.tensor([[1.0, 0.0]])).square().sum()
    loss.backward()
    torch.testing.assert_close(output.detach(), torch.tensor([[2.0, -0.3]]))
    return float(loss.detach())


def test_the_step_counts_zero_as_on() -> None:
    layer = example()
    assert layer.live().tolist() == [[True, False, True, False], [True, True, True, False]]
    assert int(layer.live().sum()) == 5
    assert backward(layer) == pytest.approx(0.545)


def test_gradients_pass_the_step_for_what_is_off_too() -> None:
    layer = example()
    backward(layer)
    torch.testing.assert_close(layer.mask.grad, torch.tensor([[1.0, -2.0, 1.0, -3.0], [-0.03, -0.06, 0.18, 0.12]]))
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[1.0, 0.0, 2.0, 0.0], [-0.3, -0.3, -0.6, 0.0]]))


@pytest.mark.parametrize(
    ("proxy", "factors"),
    [
        ("identity", [1.0, 1.0, 1.0, 1.0]),
        ("softplus", [0.622459, 0.475021, 0.5, 0.119203]),
        ("leaky_relu", [1.0, 0.01, 1.0, 0.01]),
    ],
)
def test_the_proxies_are_positive_everywhere(proxy: str, factors: list[float]) -> None:
    layer = example(proxy)
    backward(layer)
    assert layer.mask.grad is not None
    expected = torch.tensor([1.0, -2.0, 1.0, -3.0]) * torch.tensor(factors)
    torch.testing.assert_close(layer.mask.grad[0], expected, atol=1e-6, rtol=1e-5)
    assert (PROXIES[proxy](torch.linspace(-5, 5, 11)) > 0).all()


def test_a_feature_s_gradient_is_that_of_its_scale() -> None:
    """All on: the sum over a row of dL/dm is dL/ds of the row's weights times s, at s = 1, by finite differences."""
    torch.manual_seed(0)
    layer = connected(nn.Conv2d(3, 4, 3).double(), granularity="weight", initial=1.0, proxy="identity").double()
    x, target = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 4, 4, 4).double()

    def loss() -> torch.Tensor:
        return (layer(x) - target).square().sum()

    loss().backward()
    assert layer.mask.grad is not None
    for row in range(4):
        found = []
        for scale in (1 + 1e-6, 1 - 1e-6):
            with torch.no_grad():
                kept = layer.weight.clone()
                layer.weight[row] *= scale
                found.append(float(loss()))
                layer.weight.copy_(kept)
        assert (found[0] - found[1]) / 2e-6 == pytest.approx(float(layer.mask.grad[row].sum()), rel=1e-5)


@pytest.mark.parametrize(("granularity", "dims"), [("filter", (1, 2, 3)), ("channel", (0, 2, 3))])
def test_one_mask_for_a_filter_or_a_channel_gathers_its_weights(granularity: str, dims: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    layer = connected(whole, granularity=granularity, initial=1.0, proxy="identity")
    single = connected(nn.Conv2d(3, 4, 3, padding=1, bias=False), granularity="weight", initial=1.0, proxy="identity")
    single.weight = nn.Parameter(layer.weight.detach().clone())
    with torch.no_grad():
        layer.mask.view(-1)[1] = -1.0
        single.mask.copy_(layer.mask.expand_as(single.mask))
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(x), single(x))
    for one in (layer, single):
        one(x).square().sum().backward()
    assert layer.mask.grad is not None and single.mask.grad is not None
    torch.testing.assert_close(layer.mask.grad, single.mask.grad.sum(dims, keepdim=True))
    assert layer.mask.numel() == (4 if granularity == "filter" else 3)


def test_the_ordinary_layer_is_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    for plain, x in (
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 9, 9)),
        (nn.Linear(6, 5), torch.randn(3, 6)),
    ):
        layer = connected(plain, granularity="weight", initial=1.0, proxy="identity")
        assert torch.equal(layer(x), plain(x))
        with torch.no_grad():
            layer.mask.copy_(torch.randn_like(layer.mask))
        sparse = disconnected(layer)
        assert type(sparse) is type(plain) and torch.equal(layer(x), sparse(x))
        assert torch.equal(sparse.weight != 0, layer.live())
        assert isinstance(layer, Connected) and (layer.weight != 0).all()  # what is off keeps its value
