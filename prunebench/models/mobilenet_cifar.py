"""MobileNetV2 for CIFAR: inverted residuals with depthwise convolutions, and fewer strides than for ImageNet.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, CVPR 2018, table 2. For 32x32 pixels the first convolution and the
second stage keep the resolution, so that the last maps have 4x4 places; the widths are the paper's.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions, draw_linear

STEM, LAST = 32, 1280
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks, stride of the first block."""


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise 3x3, 1x1 to few channels without activation.

    The block's input is added where it has the shape of the output. With an expansion of 1 the first one is left out.
    """

    def __init__(self, *, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = F.relu6(self.bn1(self.conv1(x))) if self.expands else x
        out = F.relu6(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        total: Tensor = x + out if self.adds else out
        return total


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 for small images of at least 8x8 pixels; the usual ones have 32x32.

    Args:
        num_classes, in_channels: sizes of the last and the first layer.
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        blocks, width = [], STEM
        for expansion, channels, number, stride in STAGES:
            for i in range(number):
                blocks.append(
                    InvertedResidual(
                        in_channels=width,
                        out_channels=channels,
                        expansion=expansion,
                        stride=1 if i else stride,
                    )
                )
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, LAST, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(LAST, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.blocks(F.relu6(self.bn1(self.conv1(x))))
        x = F.relu6(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Convolutions normal with std sqrt(2 / (k^2 out)), the classifier N(0, 0.01^2); norms as PyTorch does."""
        draw_convolutions(net)
        draw_linear(net, std=0.01)


@validated
def mobilenetv2(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3, image_size: PositiveInt = 32
) -> CifarMobileNetV2:
    """MobileNetV2: 2,236,682 parameters, 87,976,448 MACs. Raises ``UserError``."""
    check_image_size("mobilenetv2", image_size, smallest=8, why="three stages halve the image")
    return CifarMobileNetV2(num_classes=num_classes, in_channels=in_channels)
