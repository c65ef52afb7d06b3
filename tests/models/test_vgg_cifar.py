from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.models import vgg_cifar
from prunebench.models.vgg_cifar import vgg11, vgg16, vgg19


def test_published_sizes(count):
    # Li et al. 2017, table 1 (3.13e8, 1.5e7); Liu et al. 2017, table 1 (7.97e8 FLOPs = 2 MACs, 20.04e6)
    assert count(vgg16, size=32) == (313_463_808, 14_987_722)
    assert count(vgg19, size=32) == (398_136_320, 20_035_018)
    # with biases: FSM's VGG-16 and DCFF's
    assert count(vgg16, size=32, conv_bias=True) == (313_463_808, 14_991_946)
    assert count(vgg16, size=32, conv_bias=True, classifier="linear") == (313_201_664, 14_728_266)


@pytest.mark.parametrize(("depth", "params"), [(11, 9_231_114), (13, 9_416_010), (16, 14_728_266), (19, 20_040_522)])
def test_sizes_by_closed_form(count, depth, params):
    """Weights from the paper's table 1 (A, B, D, E): 3x3 convolutions with bias and batch norm, Linear(512, 10)."""
    groups = {11: [1, 1, 2, 2, 2], 13: [2, 2, 2, 2, 2], 16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}[depth]
    wide = [width for width, number in zip((64, 128, 256, 512, 512), groups, strict=True) for _ in range(number)]
    sides = [32 >> group for group, number in enumerate(groups) for _ in range(number)]
    pairs = list(zip([3, *wide[:-1]], wide, strict=True))
    assert sum(9 * a * b + 3 * b for a, b in pairs) + 5130 == params
    macs = sum(9 * a * b * side**2 for (a, b), side in zip(pairs, sides, strict=True)) + 5120
    build = getattr(vgg_cifar, f"vgg{depth}")
    assert count(build, size=32, conv_bias=True, classifier="linear") == (macs, params)


def test_vgg19_has_5504_batch_norm_channels():
    # the number of scales that Network Slimming ranks
    net = vgg19()
    assert sum(module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d)) == 5504


def test_last_pooling_is_the_mean_of_2x2_maps():
    torch.manual_seed(0)
    net = vgg11().eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps = net.features(images)
        assert maps.shape == (2, 512, 2, 2)
        torch.testing.assert_close(net(images), net.classifier(F.avg_pool2d(maps, 2).flatten(1)))


@pytest.mark.parametrize("classifier", ["linear", "two_layer"])
def test_traceable(assert_traceable, classifier):
    assert_traceable(vgg11(classifier=classifier, in_channels=1, num_classes=7), torch.rand(2, 1, 32, 32))


def test_larger_images():
    assert vgg11(image_size=64)(torch.rand(1, 3, 64, 64)).shape == (1, 10)


def test_initialisation():
    torch.manual_seed(0)
    net = vgg11(conv_bias=True)
    first = net.features[0]
    assert isinstance(first, nn.Conv2d)
    assert first.weight.std().item() == pytest.approx(
        math.sqrt(2 / (64 * 9)), rel=5 / math.sqrt(2 * first.weight.numel())
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 0.5)
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any()


@pytest.mark.parametrize("size", [8, 16, 28])
def test_too_small_images(size):
    message = rf"^vgg16 needs images of at least 32x32 pixels \(five poolings\), got {size}; use dataset.size=32, or"
    with pytest.raises(UserError, match=message):
        vgg16(image_size=size)


def test_options_are_checked():
    with pytest.raises(UserError, match="classifier must be one of linear, two_layer, got 'two-layer'; did you mean"):
        vgg16(classifier="two-layer")
    with pytest.raises(UserError, match="conv_bias must be true or false, got 'no'"):
        vgg16(conv_bias="no")  # type: ignore[arg-type]  # on purpose, as is what follows
    wrong: tuple[Any, ...] = (0, -1.0, "half", float("nan"), True)
    for value in wrong:
        with pytest.raises(UserError, match="norm_weight must be a number above 0"):
            vgg16(norm_weight=value)


def test_wider_nets(count):
    # models/vgg.py of Pruning from Scratch with e=80: 488,823,040 MACs, 23,001,530 parameters, 5,280 channels
    assert count(vgg16, size=32, classifier="linear", width=80) == (488_823_040, 23_001_530)
    net = vgg16(classifier="linear", width=80)
    assert sum(module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d)) == 5280
    assert vgg16(width=8)(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UserError, match="width must be a whole number"):
        vgg16(width=0)
