"""Operations and memory of masked nets beside the numbers that the official formulas give, and by hand."""

from __future__ import annotations

import pytest
import torch

from prunebench.measure.unit_costs import unit_costs
from prunebench.methods.bases.unit_masks import mask_places
from prunebench.models.lenet import lenet5, lenet300_100
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_cifar import vgg16
from prunebench.surgery.graph import ChannelGraph

CIFAR = torch.zeros(1, 3, 32, 32)


def lenet() -> ChannelGraph:
    return ChannelGraph.trace(lenet5(), torch.zeros(1, 1, 28, 28))


def test_lenet() -> None:
    graph = lenet()
    whole = unit_costs(graph, {})
    assert (whole.flops, whole.memory) == (4_615_940, 477_410)
    left = unit_costs(graph, {"conv1": 6, "conv2": 12, "fc1": 120, "fc2": 80})
    assert left.flops == 432_528
    assert whole.flops / left.flops == pytest.approx(10.6720, abs=1e-4)
    assert left.memory / whole.memory == pytest.approx(0.0763285, abs=1e-7)
    assert unit_costs(graph, {"conv1": 20, "conv2": 50, "fc1": 800, "fc2": 500}) == whole


@pytest.mark.parametrize(("classes", "flops"), [(10, 627_329_546), (100, 627_421_796)])
def test_vgg(classes: int, flops: int) -> None:
    graph = ChannelGraph.trace(vgg16(num_classes=classes, conv_bias=True), CIFAR)
    found = unit_costs(graph, {})
    assert found.flops == flops
    if classes == 10:
        assert found.memory == 16_655_818
        # the official loop counts both linear layers 13 times (memory/utils.py:51)
        dense = [512 * 512 + 512 + 2 * 512, 512 * 10 + 10]
        assert found.memory + 12 * sum(dense) == 19_881_538


def test_half_of_every_width_of_vgg() -> None:
    graph = ChannelGraph.trace(vgg16(conv_bias=True), CIFAR)
    places, _ = mask_places(graph, list(graph.layers), "pre_bn")
    half = unit_costs(graph, {name: place.units // 2 for name, place in places.items()})
    assert half.flops == 157_820_170
    assert unit_costs(graph, {}).flops / half.flops == pytest.approx(3.97496, abs=1e-5)


def test_a_perceptron_by_hand() -> None:
    graph = ChannelGraph.trace(lenet300_100(), torch.zeros(1, 1, 28, 28))
    layers = ((784, 30, 1), (30, 10, 1), (10, 10, 0))  # the last activation is not counted
    flops = sum((2 * ins - 1) * outs + outs + outs * act for ins, outs, act in layers)
    memory = sum(ins * outs + outs for ins, outs, _ in layers)
    found = unit_costs(graph, {"fc2": 30, "fc3": 10})
    assert (found.flops, found.memory) == (flops, memory)


def test_streams_of_residual_nets_stay_whole() -> None:
    graph = ChannelGraph.trace(CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="A", width=4), CIFAR)
    whole, less = unit_costs(graph, {}), unit_costs(graph, {"layer1.0.conv1": 1})
    # 3 of 4 channels of one 3x3 convolution, and of what the next one reads
    gone = 3 * 32**2 * (2 * 9 * 4 + 1) + 4 * 32**2 * 2 * 9 * 3
    assert whole.flops - less.flops == gone
