"""CIFAR DenseNets without bottlenecks and without compression: each layer reads all layers of its block before it.

Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional networks, CVPR 2017. Depth = 3n + 4. The form
is that of Network Slimming and Rethinking (``models/densenet.py``), where all scales begin at 0.5.

The papers' 1.02 million parameters of DenseNet-40 belong to a first convolution of 16 channels; the code has twice the
growth, 24. ``stem`` is either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose channels are put behind the input's."""

    def __init__(self, *, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, in + growth, height, width]``."""
        return torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution of equal width, 2x2 average pooling."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to ``[batch, channels, height / 2, width / 2]``."""
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

    def __init__(self, *, layers: int, growth: int, stem: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, padding=1, bias=False)
        width = stem
        self.dense1 = _block(layers, in_channels=width, growth=growth)
        width += layers * growth
        self.trans1 = Transition(channels=width)
        self.dense2 = _block(layers, in_channels=width, growth=growth)
        width += layers * growth
        self.trans2 = Transition(channels=width)
        self.dense3 = _block(layers, in_channels=width, growth=growth)
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


def _block(layers: int, *, in_channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels=in_channels + i * growth, growth=growth) for i in range(layers)))


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
