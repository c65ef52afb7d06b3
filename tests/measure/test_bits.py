"""Bits, bytes and BOPs against the closed forms of Roth et al. 2024 and numbers counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from prunebench.measure import cost
from prunebench.measure.bits import FLOAT, LayerBits, bops, bops_uniq, peak_activation_bytes, weight_bytes
from prunebench.models.densenet_cifar import densenet_bc100
from prunebench.models.wide_resnet import wideresnet28x4
from tests.small_nets import small_resnet


@pytest.mark.parametrize(
    ("bits", "simple", "uniq"),
    [
        (32, 4_831_838_208, 5_167_660_046.75),
        (8, 301_989_888, 411_319_310.75),
        (1, 4_718_592, 47_987_726.75),
    ],
)
def test_bops_of_one_convolution(bits: int, simple: int, uniq: float) -> None:
    """16 -> 32, 3x3, on 32x32 places."""
    layer = LayerBits(macs=4_718_592, weights=4608, fan_in=144, bits_w=bits, bits_a=bits)
    assert bops([layer]) == simple
    assert bops_uniq([layer]) == pytest.approx(uniq, abs=0.01)


@pytest.mark.parametrize(
    ("build", "megabytes", "giga_bops"),
    [
        (wideresnet28x4, {32: 23.489, 8: 5.894, 4: 2.962, 1: 0.762}, {32: 865.9, 8: 54.1, 4: 13.5, 1: 0.846}),
        (densenet_bc100, {32: 3.200, 8: 0.872, 4: 0.484, 1: 0.193}, {32: 294.9, 8: 18.4, 4: 4.61, 1: 0.288}),
    ],
)
def test_whole_nets(build, megabytes, giga_bops) -> None:
    net = build(num_classes=100)
    macs = {row["layer"]: row["macs"] for row in cost.count(net, torch.zeros(1, 3, 32, 32)).per_layer}
    modules = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    weights = sum(m.weight.numel() for m in modules.values())
    floats = sum(p.numel() for p in net.parameters()) - weights
    for bits in megabytes:
        layers = [
            LayerBits(macs=macs[name], weights=m.weight.numel(), fan_in=m.weight[0].numel(), bits_w=bits, bits_a=bits)
            for name, m in modules.items()
        ]
        assert weight_bytes(layers, floats=floats) / 1e6 == pytest.approx(megabytes[bits], abs=5e-4)
        assert bops(layers) / 1e9 == pytest.approx(giga_bops[bits], rel=3e-3)


def test_fewer_bits_are_less() -> None:
    found = [
        (weight_bytes([layer], floats=7), bops([layer]), bops_uniq([layer]))
        for bits in (1, 2, 3, 4, 8, 16, FLOAT)
        for layer in [LayerBits(macs=1000, weights=90, fan_in=9, bits_w=bits, bits_a=bits)]
    ]
    for before, after in itertools.pairwise(found):
        assert all(one < other for one, other in zip(before, after, strict=True))


def test_the_largest_activations_of_a_chain() -> None:
    """8x8 places: 3 * 64 -> 4 * 64 -> 8 * 64 -> 10; norms and rectifiers take nothing of their own."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    x = torch.zeros(2, 3, 8, 8)
    assert peak_activation_bytes(net, x, {"0": 32, "3": 32, "7": 32}) == 4 * (256 + 512)
    # the input of each layer has its bits, its output those of the next one
    assert peak_activation_bytes(net, x, {"0": 8, "3": 2, "7": 8}) == max(192 + 256 / 4, 256 / 4 + 512)
    assert peak_activation_bytes(net, x, {"0": 8, "3": 8, "7": 1}) == 192 + 256


def test_a_shortcut_is_kept_alive() -> None:
    """The second convolution of the first block: input, output and the block's own input, 8 channels on 8x8 each."""
    net = small_resnet(num_classes=10, in_channels=3)
    layers = {name: FLOAT for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert peak_activation_bytes(net, torch.zeros(1, 3, 8, 8), layers) == 4 * 3 * 512
    few = dict.fromkeys(layers, 2)
    # input and output at 2 bits, the sum at 32; the next layer's input is what the addition gives
    assert peak_activation_bytes(net, torch.zeros(1, 3, 8, 8), few) == 512 * (2 + 2 + 32) / 8
