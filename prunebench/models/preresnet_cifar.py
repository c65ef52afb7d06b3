"""CIFAR ResNets with pre-activation and bottlenecks: batch norm and ReLU come before each convolution.

He, Zhang, Ren, Sun: Identity mappings in deep residual networks, ECCV 2016. Depth = 9n + 2. The form is that of
Network Slimming and Rethinking (``models/preresnet.py``): where the width changes, a 1x1 convolution without batch
norm reads the sum itself, not its activation; all scales begin at 0.5.

The norm of a block reads the residual stream, which keeps its width whatever is pruned: only what the block reads of
it can be selected.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions

EXPANSION = 4


class PreActBottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolution, each after batch norm and ReLU; the block's input is added, no ReLU follows.

    Args:
        in_channels: width of the stream before.
        planes: width inside; the stream behind has four times as many channels.
        stride: of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, *, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * planes
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, planes, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, kernel_size=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, 4 planes, height / stride, width / stride]``."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        total: Tensor = out + self.shortcut(x)
        return total


class CifarPreResNet(nn.Module):
    """Pre-activation ResNet for small images; works on any size from 4x4 pixels, the papers use 32x32.

    Args:
        blocks: bottlenecks a stage, ``n`` of the paper.
        num_classes, in_channels: sizes of the last and the first layer.
        width: inside the blocks of the first stage, and of the first convolution; the other stages have 2x and 4x.
    """

    def __init__(self, *, blocks: int, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        self.layer1 = _stage(blocks, in_channels=width, planes=width, stride=1)
        self.layer2 = _stage(blocks, in_channels=EXPANSION * width, planes=2 * width, stride=2)
        self.layer3 = _stage(blocks, in_channels=EXPANSION * 2 * width, planes=4 * width, stride=2)
        self.bn = nn.BatchNorm2d(EXPANSION * 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(EXPANSION * 4 * width, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.linear(self.pool(F.relu(self.bn(x))).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Convolutions normal with std sqrt(2 / (k^2 out)), scales 0.5, shifts 0; the classifier as PyTorch does."""
        draw_convolutions(net, norm_scale=0.5)


def _stage(blocks: int, *, in_channels: int, planes: int, stride: int) -> nn.Sequential:
    """The first block changes the width and the resolution, the others keep both."""
    first = PreActBottleneck(in_channels=in_channels, planes=planes, stride=stride)
    others = [PreActBottleneck(in_channels=EXPANSION * planes, planes=planes, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


def _preresnet(depth: int, num_classes: int, in_channels: int, image_size: int, width: int) -> CifarPreResNet:
    check_image_size(f"preresnet{depth}", image_size, smallest=4, why="two stages halve the image")
    return CifarPreResNet(blocks=(depth - 2) // 9, num_classes=num_classes, in_channels=in_channels, width=width)


@validated
def preresnet20(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    width: PositiveInt = 16,
) -> CifarPreResNet:
    """PreResNet-20: 219,482 parameters, 33,737,216 MACs. Raises ``UserError``."""
    return _preresnet(20, num_classes, in_channels, image_size, width)


@validated
def preresnet56(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    width: PositiveInt = 16,
) -> CifarPreResNet:
    """PreResNet-56: 590,426 parameters, 87,214,592 MACs. Raises ``UserError``."""
    return _preresnet(56, num_classes, in_channels, image_size, width)


@validated
def preresnet164(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    width: PositiveInt = 16,
) -> CifarPreResNet:
    """PreResNet-164: 1,703,258 parameters, 247,646,720 MACs. Raises ``UserError``."""
    return _preresnet(164, num_classes, in_channels, image_size, width)
