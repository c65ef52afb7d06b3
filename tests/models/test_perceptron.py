from __future__ import annotations

import itertools

import pytest
import torch

from prunebench.errors import UserError
from prunebench.models import perceptron


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mlp_2x400", [400, 400]),
        ("mlp_2x800", [800, 800]),
        ("mlp_2x1200", [1200, 1200]),
        ("mlp_3_hidden", [500] * 3),
        ("mlp_784_400_400", [400, 400]),
    ],
)
def test_sizes(name: str, widths: list[int]) -> None:
    net = getattr(perceptron, name)()
    sizes = [784, *widths, 10]
    macs = sum(a * b for a, b in itertools.pairwise(sizes))
    params = sum(p.numel() for p in net.parameters())
    assert params == macs + sum(sizes[1:])
    # the counts that the docstring promises
    promised = getattr(perceptron, name).__doc__
    assert f"{params:,} parameters" in promised and f"{macs:,} MACs" in promised
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_small_one_is_for_digits() -> None:
    net = perceptron.mlp_2x100()
    assert sum(p.numel() for p in net.parameters()) == 17_610 == 64 * 100 + 100 * 100 + 100 * 10 + 210
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_widths_are_checked() -> None:
    assert [layer.out_features for layer in perceptron.mlp_3_hidden(hidden_units=100).hidden] == [100] * 3
    with pytest.raises(UserError, match="hidden_units must be a whole number of at least 1, got 0"):
        perceptron.mlp_3_hidden(hidden_units=0)


def test_activation_of_the_net_with_silu() -> None:
    net = perceptron.mlp_784_400_400(image_size=2, num_classes=3)
    x = torch.randn(2, 1, 2, 2)
    one, two = net.hidden
    silu = torch.nn.functional.silu
    torch.testing.assert_close(net(x), net.out(silu(two(silu(one(x.flatten(1)))))))
    with pytest.raises(UserError, match="activation must be one of relu, silu, tanh, sigmoid, got 'gelu'"):
        perceptron.mlp_784_400_400(activation="gelu")
