from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.sources import known_parts, only_read_by, sources


def traced(net: nn.Module, size: int = 32) -> ChannelGraph:
    return ChannelGraph.trace(net, torch.zeros(1, 3, size, size))


def test_in_a_block_the_second_convolution_reads_the_first_and_the_first_reads_the_stream() -> None:
    for shortcut in ("A", "B"):
        graph = traced(resnet20(shortcut=shortcut))
        assert sources(graph, "layer1.0.conv1") == (("conv1", 16),)
        assert sources(graph, "layer1.1.conv1") == ((None, 16),)
        assert sources(graph, "layer2.0.conv2") == (("layer2.0.conv1", 32),)
        assert only_read_by(graph, "layer2.0.conv1") == frozenset({"layer2.0.conv2"})
        assert only_read_by(graph, "layer2.0.conv2") is None  # an addition
        assert only_read_by(graph, "conv1") is None  # and here


def test_a_plain_net_reads_layer_by_layer_through_poolings() -> None:
    graph = traced(vgg11())
    assert sources(graph, "features.0") == ((None, 3),)
    assert sources(graph, "features.4") == (("features.0", 64),)
    assert only_read_by(graph, "features.0") == frozenset({"features.4"})
    assert only_read_by(graph, "features.25") is None  # flattened for the classifier


class Joined(nn.Module):
    """``one`` and ``two`` are concatenated; ``two`` has a second norm of its own; ``three`` reads ``one`` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
        self.norm, self.again = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
        self.three, self.four, self.five = nn.Conv2d(4, 2, 1), nn.Conv2d(9, 2, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = F.relu(self.one(x)), self.norm(self.two(x))
        joined = self.four(torch.cat([one, two], dim=1))
        return (joined + self.three(one) + self.five(self.again(two))).mean((2, 3))


def test_concatenations_add_and_a_second_norm_hides_the_layer() -> None:
    graph = traced(Joined(), 8)
    assert sources(graph, "four") == (("one", 4), ("two", 5))
    assert sources(graph, "three") == (("one", 4),)
    assert sources(graph, "five") == ((None, 5),)  # its shift is added to channels that are 0
    assert only_read_by(graph, "one") is None  # the concatenation needs all places
    assert known_parts((("one", 4), ("two", 5)), {"two": 0}) == ((None, 4), ("two", 5))
    assert known_parts((("one", 4), ("two", 5), (None, 1)), {}) == ((None, 10),)
