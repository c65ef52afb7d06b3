"""GoogLeNet for CIFAR: nine inception modules with batch norm, without auxiliary classifiers.

Szegedy et al.: Going deeper with convolutions, CVPR 2015, table 1, in the form of the pruning papers (HRank, FSM:
lscgx/FSM ``models/googlenet.py``), with its parameter names: a 3x3 convolution in the place of the stem, two 3x3
convolutions in the place of each 5x5, every convolution with a bias and a batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size

STEM = 192
INCEPTIONS = {
    "inception_a3": (64, 96, 128, 16, 32, 32),
    "inception_b3": (128, 128, 192, 32, 96, 64),
    "inception_a4": (192, 96, 208, 16, 48, 64),
    "inception_b4": (160, 112, 224, 24, 64, 64),
    "inception_c4": (128, 128, 256, 24, 64, 64),
    "inception_d4": (112, 144, 288, 32, 64, 64),
    "inception_e4": (256, 160, 320, 32, 128, 128),
    "inception_a5": (256, 160, 320, 32, 128, 128),
    "inception_b5": (384, 192, 384, 48, 128, 128),
}
"""Channels: 1x1 | 1x1, then 3x3 | 1x1, then twice 3x3 | pooling, then 1x1. Maps are halved in front of a4 and a5."""


class Inception(nn.Module):
    """Four branches side by side, whose channels are joined.

    Args:
        in_channels: of the input.
        channels: one entry of :data:`INCEPTIONS`.
    """

    def __init__(self, *, in_channels: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = channels
        self.branch1x1 = nn.Sequential(*_conv(in_channels, one, kernel_size=1))
        self.branch3x3 = nn.Sequential(
            *_conv(in_channels, before_three, kernel_size=1), *_conv(before_three, three, kernel_size=3)
        )
        self.branch5x5 = nn.Sequential(
            *_conv(in_channels, before_five, kernel_size=1),
            *_conv(before_five, five, kernel_size=3),
            *_conv(five, five, kernel_size=3),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), *_conv(in_channels, pooled, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, sum of the branches, height, width]``."""
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], 1)


class CifarGoogLeNet(nn.Module):
    """GoogLeNet for small images; works on any size from 4x4 pixels, the papers use 32x32.

    Args:
        num_classes, in_channels: sizes of the last and the first layer.
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*_conv(in_channels, STEM, kernel_size=3))
        width = STEM
        for name, channels in INCEPTIONS.items():
            self.add_module(name, Inception(in_channels=width, channels=channels))
            width = sum(channels[place] for place in (0, 2, 4, 5))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.pre_layers(x)
        for name in INCEPTIONS:
            if name in ("inception_a4", "inception_a5"):
                x = self.maxpool(x)
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def _conv(in_channels: int, out_channels: int, *, kernel_size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution with a bias that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=kernel_size, padding=kernel_size // 2)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU()


@validated
def googlenet(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3, image_size: PositiveInt = 32
) -> CifarGoogLeNet:
    """GoogLeNet: 6,166,250 parameters, 1,521,756,160 MACs at 32x32. Raises ``UserError``."""
    check_image_size("googlenet", image_size, smallest=4, why="two poolings halve the image")
    return CifarGoogLeNet(num_classes=num_classes, in_channels=in_channels)
