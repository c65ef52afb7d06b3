from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models import resnet_cifar
from prunebench.models.resnet_cifar import PadShortcut, resnet20, resnet56, resnet110


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("PRUNEBENCH_DATA")
    if folder is None:
        pytest.skip("PRUNEBENCH_DATA is not set: no CIFAR-10 images and no published weights")
    return Path(folder)


def published_weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}


@pytest.mark.parametrize(
    ("depth", "shortcut", "macs", "params"),
    [
        # MACs: conv counts of the pruning papers (40,550,400 etc.) + 640 of the classifier
        (20, "A", 40_551_040, 269_722),
        (32, "A", 68_862_592, 464_154),
        (56, "A", 125_485_696, 853_018),
        (110, "A", 252_887_680, 1_727_962),
        (20, "B", 40_813_184, 272_474),
        (56, "B", 125_747_840, 855_770),
    ],
)
def test_published_sizes(count, depth, shortcut, macs, params):
    build = getattr(resnet_cifar, f"resnet{depth}")
    assert count(build, size=32, shortcut=shortcut) == (macs, params)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_convolutions_and_the_classifier(depth):
    with torch.device("meta"):
        net = getattr(resnet_cifar, f"resnet{depth}")()
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_option_a_with_means_by_hand():
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out = PadShortcut(in_channels=2, out_channels=4, average=True)(x)
    # the mean of each 2x2 window; at the edge of an odd picture only of the pixels that there are
    zero, one = [[0, 0], [0, 0]], [[2, 3.5], [6.5, 8]]
    assert out.tolist() == [[zero, one, [[11, 12.5], [15.5, 17]], zero]]


@pytest.mark.parametrize("size", [8, 9, 32])
def test_option_a_with_means_has_the_same_sizes(count, size):
    for depth in (20, 56):
        build = getattr(resnet_cifar, f"resnet{depth}")
        assert count(build, size=size, shortcut="A_average") == count(build, size=size, shortcut="A")


def test_option_a_by_hand():
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out = PadShortcut(in_channels=2, out_channels=4)(x)
    # one zero channel in front, one behind; rows and columns 0 and 2 stay
    expected = torch.tensor(
        [[[0, 0], [0, 0]], [[0, 2], [6, 8]], [[9, 11], [15, 17]], [[0, 0], [0, 0]]], dtype=torch.float32
    )
    assert torch.equal(out, expected[None])


def test_option_a_of_an_odd_number_of_extra_channels():
    out = PadShortcut(in_channels=1, out_channels=4)(torch.ones(1, 1, 2, 2))
    assert out.flatten().tolist() == [0, 1, 0, 0]


def test_option_a_passes_gradients():
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    PadShortcut(in_channels=2, out_channels=4)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 2 * 4  # every second pixel of two channels


def test_option_a_has_no_parameters():
    assert not [name for name in resnet20().state_dict() if "shortcut" in name]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("size", [4, 7, 8, 16, 32])
def test_any_image_size(shortcut, size):
    net = resnet20(image_size=size, in_channels=1, num_classes=7, shortcut=shortcut, width=4)
    assert net(torch.rand(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_traceable(assert_traceable, shortcut):
    assert_traceable(resnet20(shortcut=shortcut, width=4), torch.rand(2, 3, 16, 16))


def test_kaiming_initialisation():
    torch.manual_seed(0)
    net = resnet110()
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            wanted = math.sqrt(2 / (weight.shape[0] * 9))
            # the deviation of n normal values has a relative error of 1 / sqrt(2 n); five of them
            assert weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * weight.numel())), name
    assert net.linear.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=5 / math.sqrt(2 * 640))
    assert not net.linear.bias.any()


def test_options_are_checked():
    with pytest.raises(UserError, match=r"^shortcut must be one of A, A_average, B, got 'C'"):
        resnet56(shortcut="C")
    with pytest.raises(UserError, match=r"^width must be a whole number of at least 1, got 0"):
        resnet56(width=0)
    with pytest.raises(UserError, match="resnet56 needs images of at least 4x4 pixels"):
        resnet56(image_size=3)


@pytest.mark.parametrize(("build", "file"), [(resnet20, "resnet20-12fca82f.th"), (resnet56, "resnet56-4bfd9763.th")])
def test_published_weights_fit(data, build, file):
    build().load_state_dict(published_weights(data / "weights" / file), strict=True)


def test_published_accuracy(data):
    net = resnet20().eval()
    net.load_state_dict(published_weights(data / "weights" / "resnet20-12fca82f.th"), strict=True)
    count = 500
    file = data / "cifar-10-batches-bin" / "test_batch.bin"
    records = np.fromfile(file, dtype=np.uint8, count=count * 3073).reshape(count, 3073)  # label, then 3 planes
    images = torch.from_numpy(records[:, 1:].reshape(count, 3, 32, 32)).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = net((images - mean[:, None, None]) / std[:, None, None])
    accuracy = (logits.argmax(1).numpy() == records[:, 0]).mean()
    # the weights score 0.9173 on all 10,000 images; three standard errors of a sample
    assert accuracy == pytest.approx(0.9173, abs=3 * math.sqrt(0.9173 * 0.0827 / count))
