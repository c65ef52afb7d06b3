"""Counts of Network Slimming's PreResNet-164, structure, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.preresnet_cifar import PreActBottleneck, preresnet20, preresnet56, preresnet164


def test_counts_of_the_paper(count):
    # Table 1: 1.70 M parameters, 4.99e8 FLOPs at two a MAC (without the shortcuts' convolutions 4.95e8)
    macs, params = count(preresnet164, size=32)
    assert params == 1_703_258
    assert 2 * macs == pytest.approx(4.953e8, rel=1e-3)
    assert count(preresnet164, size=32, num_classes=100)[1] == params + 90 * 257


@pytest.mark.parametrize(("build", "depth"), [(preresnet20, 20), (preresnet56, 56), (preresnet164, 164)])
def test_depth_is_that_of_the_name(build, depth):
    with torch.device("meta"):
        net = build()
    body = [m for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
    assert len(body) + 1 == depth  # and the classifier


def test_number_of_scales():
    with torch.device("meta"):
        net = preresnet164()
    assert sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)) == 12_112


def test_a_block_with_dead_norms_is_its_shortcut():
    block = PreActBottleneck(in_channels=8, planes=2, stride=1).eval()
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert not torch.equal(block(x), x)
        nn.init.zeros_(block.bn3.weight)
        assert torch.equal(block(x), x)


def test_can_be_traced(assert_traceable):
    assert_traceable(preresnet20(width=4), torch.randn(2, 3, 16, 16))


def test_initial_values():
    torch.manual_seed(0)
    net = preresnet20()
    assert all((m.weight == 0.5).all() and (m.bias == 0).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    conv = net.layer3[1].conv2
    assert conv.weight.detach().std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="preresnet20 needs images of at least 4x4"):
        preresnet20(image_size=2)
    with pytest.raises(UserError, match="width"):
        preresnet20(width=0)
