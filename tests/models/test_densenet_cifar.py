"""Counts of Network Slimming's DenseNet-40 with either stem, structure, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.densenet_cifar import BottleneckLayer, DenseLayer, densenet40, densenet_bc100


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


def test_counts_of_bc(count):
    assert count(densenet_bc100, size=32, num_classes=100) == (287_960_472, 800_032)
    assert count(densenet_bc100, size=32)[1] == 769_162  # the paper prints 0.8 M
    with torch.device("meta"):
        net = densenet_bc100(num_classes=100)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (len(layers), sum(m.weight.numel() for m in layers)) == (100, 775_944)
    assert (net.trans1.conv1.out_channels, net.trans2.conv1.out_channels) == (108, 150)  # half of 216 and of 300


def test_a_bottleneck_has_four_times_the_growth():
    layer = BottleneckLayer(in_channels=5, growth=3).eval()
    x = torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        inner = layer.conv1(torch.relu(layer.bn1(x)))
        assert inner.shape == (2, 12, 4, 4)
        assert torch.equal(layer(x), torch.cat([x, layer.conv2(torch.relu(layer.bn2(inner)))], 1))


def test_can_be_traced(assert_traceable):
    assert_traceable(densenet40(growth=2, stem=4), torch.randn(2, 3, 8, 8))
    assert_traceable(densenet_bc100(growth=2), torch.randn(2, 3, 8, 8))


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
