from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.vgg11_wide import vgg11_wide


def test_size(count):
    # the specification's, counted on the official code's net
    assert count(vgg11_wide, size=32) == (342_592_000, 20_946_890)


def test_layers_of_the_official_net():
    net = vgg11_wide(width=8)
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in vgg11_wide().features if isinstance(conv, nn.Conv2d)] == [
        96, 192, 384, 384, 768, 768, 768, 768
    ]  # fmt: skip
    assert [conv.bias is not None for conv in convs] == [True] + [False] * 7
    assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == 5
    assert [type(module).__name__ for module in net.classifier] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_traceable(assert_traceable):
    net = vgg11_wide(in_channels=1, num_classes=7, width=8, hidden=16)
    assert_traceable(net, torch.rand(2, 1, 32, 32))


def test_images():
    assert vgg11_wide(image_size=64, width=4)(torch.rand(2, 3, 64, 64)).shape == (2, 10)
    with pytest.raises(UserError, match=r"vgg11_wide needs images of at least 32x32 pixels \(five poolings\), got 28"):
        vgg11_wide(image_size=28)
