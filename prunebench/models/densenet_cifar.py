"""CIFAR DenseNets: each layer reads all layers of its block before it.

Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional networks, CVPR 2017. Without bottlenecks and
without compression depth = 3n + 4; the form is that of Network Slimming and Rethinking (``models/densenet.py``), where
all scales begin at 0.5. DenseNet-BC has 1x1 bottlenecks of four times the growth, transitions that halve the channels,
a first convolution of twice the growth, and depth = 6n + 4.

The papers' 1.02 million parameters of DenseNet-40 belong to a first convolution of 16 channels; the code has twice the
growth, 24. ``stem`` is either.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions

BOTTLENECK = 4
"""Width of a bottleneck, in units of the growth."""


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose channels are put behind the input's."""

    def __init__(self, *, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, in + growth, height, width]``."""
        return torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)


class BottleneckLayer(nn.Module):
    """Batch norm, ReLU, 1x1 convolution; again with a 3x3 convolution, whose channels are put behind the input's."""

    def __init__(self, *, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, in + growth, height, width]``."""
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], 1)


Layer = type[DenseLayer] | type[BottleneckLayer]


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution, 2x2 average pooling."""

    def __init__(self, *, channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to ``[batch, out_channels, height / 2, width / 2]``."""
        out: Tensor = self.pool(self.conv1(F.relu(self.bn1(x))))
        return out


class CifarDenseNet(nn.Module):
    """DenseNet for small images of at least 4x4 pixels; the papers use 32x32.

    Args:
        layers: dense layers in each of the three blocks.
        growth: channels that each layer adds.
        stem: channels of the first convolution.
        num_classes, in_channels: sizes of the last and the first layer.
    """

    layer: ClassVar[Layer] = DenseLayer
    kept: ClassVar[float] = 1.0
    """Share of the channels that a transition passes on."""

    def __init__(self, *, layers: int, growth: int, stem: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, padding=1, bias=False)
        width = stem
        self.dense1 = _block(self.layer, layers, in_channels=width, growth=growth)
        width += layers * growth
        self.trans1 = Transition(channels=width, out_channels=int(width * self.kept))
        width = int(width * self.kept)
        self.dense2 = _block(self.layer, layers, in_channels=width, growth=growth)
        width += layers * growth
        self.trans2 = Transition(channels=width, out_channels=int(width * self.kept))
        width = int(width * self.kept)
        self.dense3 = _block(self.layer, layers, in_channels=width, growth=growth)
        width += layers * growth
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        logits: Tensor = self.linear(self.pool(F.relu(self.bn(x))).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Convolutions normal with std sqrt(2 / (k^2 out)), scales 0.5, shifts 0; the classifier as PyTorch does."""
        draw_convolutions(net, norm_scale=0.5)


class CifarDenseNetBC(CifarDenseNet):
    """The same with bottlenecks and compression."""

    layer = BottleneckLayer
    kept = 0.5

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Convolutions normal with std sqrt(2 / (k^2 out)), norms and the classifier as PyTorch does."""
        draw_convolutions(net)


def _block(layer: Layer, layers: int, *, in_channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(layer(in_channels=in_channels + i * growth, growth=growth) for i in range(layers)))


def _densenet(depth: int, num_classes: int, in_channels: int, image_size: int, growth: int, stem: int) -> CifarDenseNet:
    check_image_size(f"densenet{depth}", image_size, smallest=4, why="two transitions halve the image")
    return CifarDenseNet(
        layers=(depth - 4) // 3, growth=growth, stem=stem, num_classes=num_classes, in_channels=in_channels
    )


@validated
def densenet40(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    growth: PositiveInt = 12,
    stem: PositiveInt = 16,
) -> CifarDenseNet:
    """DenseNet-40: 1,019,722 parameters, 264,812,928 MACs (growth 12, stem 16). Raises ``UserError``."""
    return _densenet(40, num_classes, in_channels, image_size, growth, stem)


@validated
def densenet_bc100(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    growth: PositiveInt = 12,
) -> CifarDenseNetBC:
    """DenseNet-BC-100: 769,162 parameters, 287,929,692 MACs (growth 12). Raises ``UserError``."""
    check_image_size("densenet_bc100", image_size, smallest=4, why="two transitions halve the image")
    return CifarDenseNetBC(layers=16, growth=growth, stem=2 * growth, num_classes=num_classes, in_channels=in_channels)
