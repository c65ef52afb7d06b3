from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.vgg_plain import vgg16_imagenet, vgg16_no_bn


def test_size_by_closed_form(count):
    """VGG's table 1 (D): 138,357,544 parameters as torchvision says; 15.470e9 MACs."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14]
    pairs = list(itertools.pairwise(widths))
    params = sum(9 * a * b + b for a, b in pairs)
    macs = sum(9 * a * b * side**2 for (a, b), side in zip(pairs, sides, strict=True))
    linear = 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000
    assert count(vgg16_imagenet, size=224) == (macs + linear, params + linear + 2 * 4096 + 1000)
    assert (macs + linear, params + linear + 9192) == (15_470_264_320, 138_357_544)
    assert count(vgg16_imagenet, size=224, head="average") == (macs + 512_000, params + 513_000)


def test_torchvisions_names_and_shapes():
    with torch.device("meta"):
        state = vgg16_imagenet().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    convs = [int(name.split(".")[1]) for name in shapes if name.startswith("features") and name.endswith("weight")]
    assert convs == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert shapes["features.28.weight"] == (512, 512, 3, 3) and shapes["features.28.bias"] == (512,)
    assert [shapes[f"classifier.{place}.weight"] for place in (0, 3, 6)] == [(4096, 25088), (4096, 4096), (1000, 4096)]
    assert len(shapes) == 32


def test_initial_weights():
    torch.manual_seed(0)
    net = vgg16_imagenet(head="average")
    last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert net.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert last.bias.abs().max() == net.classifier.bias.abs().max() == 0


def test_traceable(assert_traceable):
    net = vgg16_imagenet(in_channels=1, num_classes=7, head="average")
    assert_traceable(net, torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"image_size": 28}, "at least 32x32"), ({"head": "gap"}, "head must be one of linear, average, got 'gap'")],
)
def test_refusals(options, words):
    with pytest.raises(UserError, match=words):
        vgg16_imagenet(**options)


def test_size_by_closed_form_with_dropout(count):
    """Weights from VGG's table 1 (D): 3x3 convolutions with bias; Linear(512, 512) twice and Linear(512, 10)."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    pairs = list(itertools.pairwise(widths))
    params = sum(9 * a * b + b for a, b in pairs) + 2 * (512 * 512 + 512) + 512 * 10 + 10
    macs = sum(9 * a * b * side**2 for (a, b), side in zip(pairs, sides, strict=True)) + 2 * 512 * 512 + 512 * 10
    assert count(vgg16_no_bn, size=32) == (macs, params) == (313_725_952, 15_245_130)


def test_no_batch_norm_and_two_dropouts():
    net = vgg16_no_bn()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert [module.p for module in net.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]


def test_initial_weights_of_the_swag_code():
    torch.manual_seed(0)
    net = vgg16_no_bn()
    last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert last.bias.abs().max() == 0
    # PyTorch's default for a linear layer: uniform in +-1 / sqrt(in)
    assert net.classifier[1].weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)


def test_traceable_with_dropout(assert_traceable):
    net = vgg16_no_bn(in_channels=1, num_classes=7, dropout=0.0)
    assert_traceable(net, torch.rand(2, 1, 32, 32))
    assert vgg16_no_bn(image_size=64)(torch.rand(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"image_size": 28}, "at least 32x32"), ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0")],
)
def test_refusals_with_dropout(options, words):
    with pytest.raises(UserError, match=words):
        vgg16_no_bn(**options)
