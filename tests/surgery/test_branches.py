"""Which branches an addition could do without, and which layers belong to a block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.models.preresnet_cifar import CifarPreResNet
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_cifar import vgg11
from prunebench.surgery.branches import block_of, residual_branches
from prunebench.surgery.graph import ChannelGraph


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_longer_side_is_the_branch(shortcut: str) -> None:
    net = CifarResNet(blocks=2, num_classes=10, in_channels=3, shortcut=shortcut, width=4)
    branches = residual_branches(ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8)))
    blocks = [f"layer{stage}.{place}" for stage in (1, 2, 3) for place in (0, 1)]
    assert [(b.block, b.last, b.end) for b in branches] == [(b, f"{b}.conv2", f"{b}.bn2") for b in blocks]


def test_a_branch_may_end_in_a_convolution() -> None:
    net = CifarPreResNet(blocks=1, num_classes=10, in_channels=3, width=4)
    branches = residual_branches(ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8)))
    assert [(b.last, b.end) for b in branches] == [(f"layer{s}.0.conv3",) * 2 for s in (1, 2, 3)]


class Twins(nn.Module):
    """Two sides of equal length: neither is the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.a(x) + self.b(x)).mean((2, 3)))


def test_equal_sides_have_no_branch() -> None:
    assert residual_branches(ChannelGraph.trace(Twins(), torch.zeros(1, 3, 8, 8))) == []


def test_blocks_are_modules_that_are_no_containers() -> None:
    net = CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="B", width=4)
    assert block_of("layer2.0.shortcut.0", net) == block_of("layer2.0.conv1", net) == "layer2.0"
    assert block_of("conv1", net) == "conv1"
    assert block_of("features.4", vgg11(width=2)) == "features.4"
