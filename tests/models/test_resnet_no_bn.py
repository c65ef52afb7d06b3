from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.resnet import resnet18
from prunebench.models.resnet_no_bn import resnet18_no_bn


def test_sizes_are_those_of_resnet18_without_its_norms(count):
    macs, params = count(resnet18, size=224, num_classes=10)
    norms = sum(2 * width for width in (64, *[64] * 4, *[128] * 5, *[256] * 5, *[512] * 5))
    assert count(resnet18_no_bn, size=224) == (macs, params - norms) == (1_813_566_464, 11_172_042)
    assert count(resnet18_no_bn, size=32) == (37_016_576, 11_172_042)


def test_small_pictures_are_enlarged_first(count):
    assert count(resnet18_no_bn, size=32, enlarge=224) == count(resnet18_no_bn, size=224)
    torch.manual_seed(0)
    net = resnet18_no_bn(enlarge=64, image_size=8)
    x = torch.rand(2, 3, 8, 8)
    by_hand = nn.functional.interpolate(x, size=(64, 64), mode="bilinear")
    net.enlarge = None
    expected = net(by_hand)
    net.enlarge = 64
    assert torch.equal(net(x), expected)


def test_it_computes_what_resnet18_with_idle_norms_does():
    torch.manual_seed(0)
    net, whole = resnet18_no_bn().eval(), resnet18(num_classes=10).eval()
    missing, unknown = whole.load_state_dict(net.state_dict(), strict=False)
    assert not unknown  # convolutions and classifier have the same names
    assert all(".bn" in name or name.startswith("bn1") or "downsample.1" in name for name in missing)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(x), whole(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert all(module.bias is None for module in net.modules() if isinstance(module, nn.Conv2d))


def test_traceable(assert_traceable):
    assert_traceable(resnet18_no_bn(in_channels=1, num_classes=7, image_size=8, enlarge=32), torch.rand(2, 1, 8, 8))


def test_refusals():
    with pytest.raises(UserError, match=r"at least 32x32 pixels .*model\.enlarge=32"):
        resnet18_no_bn(image_size=28)
    with pytest.raises(UserError, match="enlarge must be a whole number of at least 1 or null, got 0"):
        resnet18_no_bn(enlarge=0)
