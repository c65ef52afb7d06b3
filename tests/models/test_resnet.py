from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models import resnet
from prunebench.models.resnet import resnet18, resnet34, resnet50, resnet101


@pytest.mark.parametrize(
    ("build", "macs", "params"),
    [
        # torchvision's published parameter counts and operations (1.81, 3.66, 4.09, 7.80 G)
        (resnet18, 1_814_073_344, 11_689_512),
        (resnet34, 3_663_761_408, 21_797_672),
        (resnet50, 4_089_184_256, 25_557_032),
        (resnet101, 7_801_405_440, 44_549_160),
    ],
)
def test_published_sizes(count, build, macs, params):
    assert count(build, size=224) == (macs, params)


@pytest.mark.parametrize(("depth", "tensors"), [(18, 122), (34, 218), (50, 320), (101, 626)])
def test_as_many_tensors_as_torchvisions_files(depth, tensors):
    with torch.device("meta"):
        assert len(getattr(resnet, f"resnet{depth}")().state_dict()) == tensors


def test_torchvisions_names_and_shapes():
    with torch.device("meta"):
        state = resnet50().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.running_var"] == (256,)
    assert shapes["layer2.0.conv1.weight"] == (128, 256, 1, 1)
    assert shapes["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer4.2.bn3.bias"] == (2048,)
    assert shapes["fc.weight"] == (1000, 2048)
    with torch.device("meta"):
        names = resnet18().state_dict()
    assert "layer1.0.downsample.0.weight" not in names  # nothing changes in the first stage of basic blocks
    assert "layer2.0.downsample.0.weight" in names


def test_parameters_in_the_order_that_index_based_skip_lists_use():
    # positions of the projections in parameters(), as in FPGM's pruning_imagenet.py
    for build, wanted in ((resnet18, [21, 36, 51]), (resnet50, [12, 42, 81, 138])):
        with torch.device("meta"):
            names = [name for name, _ in build().named_parameters()]
        assert [index for index, name in enumerate(names) if name.endswith("downsample.0.weight")] == wanted


def test_bottlenecks_stride_in_the_3x3_convolution():
    with torch.device("meta"):
        net = resnet50()
    strides = {name: m.stride for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)}
    blocks = {f"layer{stage}.0.{conv}": (2, 2) for stage in (2, 3, 4) for conv in ("conv2", "downsample.0")}
    assert strides == {"conv1": (2, 2)} | blocks


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_traceable(assert_traceable, build):
    assert_traceable(build(num_classes=7, in_channels=1, image_size=32), torch.rand(2, 1, 32, 32))


def test_too_small_images():
    with pytest.raises(
        UserError,
        match=r"^resnet50 needs images of at least 32x32 pixels .* got 8; use dataset.size=32, or",
    ):
        resnet50(image_size=8)


@pytest.mark.parametrize(("build", "macs"), [(resnet50, 3_857_973_248), (resnet101, 7_570_194_432)])
def test_strides_in_the_first_convolution_as_in_caffe(count, build, macs):
    """7.72e9 FLOPs of ResNet-50, as ThiNet prints them; the same parameters."""
    assert count(build, size=224, strided="first") == (macs, count(build, size=224)[1])
    with torch.device("meta"):
        net = build(strided="first")
    blocks = [f"layer{stage}.0" for stage in (2, 3, 4)]
    assert {net.get_submodule(f"{block}.conv1").stride for block in blocks} == {(2, 2)}
    assert {net.get_submodule(f"{block}.conv2").stride for block in blocks} == {(1, 1)}


def test_a_wrong_place_of_the_stride():
    with pytest.raises(UserError, match="strided must be one of middle, first, got 'last'"):
        resnet50(strided="last")
