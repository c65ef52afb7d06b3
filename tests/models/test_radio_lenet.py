"""The radio galaxies' net: published sizes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.models.perceptron import mlp_2x800
from prunebench.models.radio_lenet import conv_bbb

LAYERS = {
    "conv1": (3_285_600, 156),
    "conv2": (12_441_600, 2_416),
    "conv3": (12_022_400, 10_426),
    "conv4": (4_680_000, 20_832),
    "fc1": (188_160, 188_280),
    "fc2": (10_080, 10_164),
    "fc3": (168, 170),
}


def test_published_sizes() -> None:
    net = conv_bbb()
    found = cost.count(net, torch.zeros(1, 1, 150, 150))
    assert (found.macs, found.params) == (32_628_008, 232_444)
    assert (sum(macs for macs, _ in LAYERS.values()), sum(n for _, n in LAYERS.values())) == (found.macs, found.params)
    for name, (_, num) in LAYERS.items():
        assert sum(p.numel() for p in net.get_submodule(name).parameters()) == num
    weights = [net.get_submodule(name).get_parameter("weight").numel() for name in ("fc1", "fc2", "fc3")]
    assert sum(weights) == 198_408


def test_maps_have_the_published_sides() -> None:
    net, sides = conv_bbb(), []
    for name in ("conv1", "conv2", "conv3", "conv4"):
        net.get_submodule(name).register_forward_hook(lambda _module, _x, y: sides.append(y.shape[-1]))
    assert net(torch.zeros(2, 1, 150, 150)).shape == (2, 2)
    assert sides == [148, 72, 34, 15]


def test_the_perceptron_has_as_many_inputs_as_pixels() -> None:
    net = mlp_2x800(num_classes=2, image_size=150)
    assert [tuple(p.shape) for p in net.parameters() if p.dim() == 2] == [(800, 22_500), (800, 800), (2, 800)]


@pytest.mark.parametrize("size", [16, 32, 45, 46, 151])
def test_it_fits_its_image_size(size: int) -> None:
    assert conv_bbb(image_size=size, in_channels=3, num_classes=7)(torch.rand(1, 3, size, size)).shape == (1, 7)


def test_traceable(assert_traceable: Callable[..., Any]) -> None:
    assert_traceable(conv_bbb(image_size=46), torch.rand(2, 1, 46, 46))


def test_too_small_images() -> None:
    with pytest.raises(UserError, match=r"^conv_bbb needs images of at least 16x16 pixels \(four poolings\), got 15"):
        conv_bbb(image_size=15)
