"""Counts of Network Slimming's DenseNet-40 with either stem, structure, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.densenet_cifar import DenseLayer, densenet40


@pytest.mark.parametrize(
    ("stem", "params", "flops", "scales"),
    [
        (16, 1_019_722, 5.30e8, 9_048),  # the paper's 1.02 M
        (24, 1_059_298, 5.66e8, 9_360),  # the official code
    ],
)
def test_counts(count, stem, params, flops, scales):
    macs, found = count(densenet40, size=32, stem=stem)
    assert found == params
    assert 2 * macs == pytest.approx(flops, rel=2e-3)
    with torch.device("meta"):
        net = densenet40(stem=stem)
    assert sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)) == scales
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 40


def test_a_layer_puts_its_channels_behind_the_input():
    layer = DenseLayer(in_channels=5, growth=3).eval()
    x = torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        out = layer(x)
        assert out.shape == (2, 8, 4, 4)
        assert torch.equal(out[:, :5], x)
        assert torch.equal(out[:, 5:], layer.conv1(torch.relu(layer.bn1(x))))


def test_can_be_traced(assert_traceable):
    assert_traceable(densenet40(growth=2, stem=4), torch.randn(2, 3, 8, 8))


def test_initial_values():
    torch.manual_seed(0)
    net = densenet40()
    assert all((m.weight == 0.5).all() and (m.bias == 0).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert net.trans2.conv1.weight.detach().std() == pytest.approx((2 / net.trans2.conv1.out_channels) ** 0.5, rel=0.02)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="densenet40 needs images of at least 4x4"):
        densenet40(image_size=2)
    with pytest.raises(UserError, match="growth"):
        densenet40(growth=0)
