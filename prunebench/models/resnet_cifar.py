"""CIFAR ResNets: three stages of basic blocks with 16, 32 and 64 channels.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016, section 4.2. Depth = 6n + 2.

Three shortcuts where the width doubles (section 3.3 of the paper):

- ``A``: every second pixel, and zero channels; no parameters. This is the net of the paper's CIFAR tables and
  of most pruning papers. The zeros go in front of and behind the channels, half each, as in
  akamaster/pytorch_resnet_cifar10 (``resnet.py``, class ``BasicBlock``), so that its published weights fit;
  which side they are on is only a renumbering of the channels of the stream.
- ``A_average``: as ``A``, with the mean of 2x2 pixels instead of every second one, as in the official code of Liu et
  al. 2019 (Eric-mingjie/rethinking-network-pruning, cifar/l1-norm-pruning/models/resnet.py:51-60).
- ``B``: 1x1 convolution and batch norm (2,752 parameters more for width 16).
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt
from prunebench.models import check_image_size, draw_convolutions

SHORTCUTS = ("A", "A_average", "B")
Shortcut = Annotated[str, Among(SHORTCUTS)]


class PadShortcut(nn.Module):
    """Option A: subsample by 2 and append zero channels; has no parameters.

    Args:
        in_channels, out_channels: width before and after, ``out_channels > in_channels``.
        average: take the mean of 2x2 pixels, not the first of them.
    """

    def __init__(self, *, in_channels: int, out_channels: int, average: bool = False) -> None:
        super().__init__()
        self.average = average
        extra = out_channels - in_channels
        assert extra > 0, f"option A pads channels, got {in_channels} -> {out_channels}"
        self.front = extra // 2
        self.back = extra - self.front

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, ceil(height / 2), ceil(width / 2)]``."""
        small = F.avg_pool2d(x, 2, ceil_mode=True) if self.average else x[:, :, ::2, ::2]
        return F.pad(small, (0, 0, 0, 0, self.front, self.back))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that is added before the last ReLU."""

    def __init__(self, *, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut in ("A", "A_average"):
            average = shortcut == "A_average"
            self.shortcut = PadShortcut(in_channels=in_channels, out_channels=out_channels, average=average)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images; works on any size from 4x4 pixels, the papers use 32x32.

    Args:
        blocks: basic blocks a stage, ``n`` of the paper.
        num_classes, in_channels: sizes of the last and the first layer.
        shortcut: ``"A"``, ``"A_average"`` or ``"B"``, see the module's text.
        width: channels of the first stage; the others have twice and four times as many.
    """

    def __init__(self, *, blocks: int, num_classes: int, in_channels: int, shortcut: str, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, in_channels=width, out_channels=width, stride=1, shortcut=shortcut)
        self.layer2 = _stage(blocks, in_channels=width, out_channels=2 * width, stride=2, shortcut=shortcut)
        self.layer3 = _stage(blocks, in_channels=2 * width, out_channels=4 * width, stride=2, shortcut=shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Kaiming normal (He et al. 2015), by fan-out as in fb.resnet.torch, by fan-in for the classifier."""
        draw_convolutions(net)
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)


def _stage(blocks: int, *, in_channels: int, out_channels: int, stride: int, shortcut: str) -> nn.Sequential:
    """The first block changes the width and the resolution, the others keep both."""
    first = BasicBlock(in_channels=in_channels, out_channels=out_channels, stride=stride, shortcut=shortcut)
    others = [
        BasicBlock(in_channels=out_channels, out_channels=out_channels, stride=1, shortcut=shortcut)
        for _ in range(blocks - 1)
    ]
    return nn.Sequential(first, *others)


def _resnet(depth: int, num_classes: int, in_channels: int, image_size: int, shortcut: str, width: int) -> CifarResNet:
    check_image_size(f"resnet{depth}", image_size, smallest=4, why="two stages halve the image")
    return CifarResNet(
        blocks=(depth - 2) // 6,
        num_classes=num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
        width=width,
    )


@validated
def resnet20(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    shortcut: Shortcut = "A",
    width: PositiveInt = 16,
) -> CifarResNet:
    """ResNet-20: 269,722 parameters, 40,551,040 MACs (option A). Raises ``UserError``."""
    return _resnet(20, num_classes, in_channels, image_size, shortcut, width)


@validated
def resnet32(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    shortcut: Shortcut = "A",
    width: PositiveInt = 16,
) -> CifarResNet:
    """ResNet-32: 464,154 parameters, 68,862,592 MACs (option A). Raises ``UserError``."""
    return _resnet(32, num_classes, in_channels, image_size, shortcut, width)


@validated
def resnet44(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    shortcut: Shortcut = "A",
    width: PositiveInt = 16,
) -> CifarResNet:
    """ResNet-44: 658,586 parameters, 97,174,144 MACs (option A). Raises ``UserError``."""
    return _resnet(44, num_classes, in_channels, image_size, shortcut, width)


@validated
def resnet56(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    shortcut: Shortcut = "A",
    width: PositiveInt = 16,
) -> CifarResNet:
    """ResNet-56: 853,018 parameters, 125,485,696 MACs (option A). Raises ``UserError``."""
    return _resnet(56, num_classes, in_channels, image_size, shortcut, width)


@validated
def resnet110(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    shortcut: Shortcut = "A",
    width: PositiveInt = 16,
) -> CifarResNet:
    """ResNet-110: 1,727,962 parameters, 252,887,680 MACs (option A). Raises ``UserError``."""
    return _resnet(110, num_classes, in_channels, image_size, shortcut, width)
