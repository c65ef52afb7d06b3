"""ResNets for ImageNet, with torchvision's parameter names, so that its published weights fit.

He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016, table 1. In bottleneck blocks
the 3x3 convolution has the stride ("v1.5"), as in torchvision and fb.resnet.torch; the paper and its Caffe nets have
it in the first 1x1 (``strided="first"``). Where a block changes the width or the resolution, its shortcut is a 1x1
convolution and a batch norm (option B).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt
from prunebench.models import check_image_size, draw_convolutions

STRIDED = ("middle", "first")
Strided = Annotated[str, Among(STRIDED)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that is added before the last ReLU (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, *, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut that is added before the last ReLU (ResNet-50, -101)."""

    expansion = 4

    def __init__(self, *, in_channels: int, width: int, stride: int, strided: str = "middle") -> None:
        super().__init__()
        out_channels = self.expansion * width
        first, middle = (stride, 1) if strided == "first" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=middle, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """ResNet for images of at least 32x32 pixels; the papers use 224x224.

    Args:
        block: makes a ``BasicBlock`` or a ``Bottleneck``.
        expansion: output channels of a block for each channel of its width.
        blocks: blocks in each of the four stages, whose widths are 64, 128, 256 and 512.
        num_classes, in_channels: sizes of the last and the first layer.
    """

    def __init__(
        self,
        *,
        block: Callable[..., nn.Module],
        expansion: int,
        blocks: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(block, expansion, blocks[0], in_channels=64, width=64, stride=1)
        self.layer2 = _stage(block, expansion, blocks[1], in_channels=64 * expansion, width=128, stride=2)
        self.layer3 = _stage(block, expansion, blocks[2], in_channels=128 * expansion, width=256, stride=2)
        self.layer4 = _stage(block, expansion, blocks[3], in_channels=256 * expansion, width=512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * expansion, num_classes)
        self.initialise(self)

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions (He et al. 2015)."""
        draw_convolutions(net)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(
    block: Callable[..., nn.Module], expansion: int, blocks: int, *, in_channels: int, width: int, stride: int
) -> nn.Sequential:
    """The first block changes the width and the resolution, the others keep both."""
    layers = [block(in_channels=in_channels, width=width, stride=stride)]
    layers += [block(in_channels=width * expansion, width=width, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def _resnet(
    name: str,
    block: type[BasicBlock] | type[Bottleneck],
    blocks: tuple[int, int, int, int],
    num_classes: int,
    in_channels: int,
    image_size: int,
    strided: str | None = None,
) -> ResNet:
    check_image_size(name, image_size, smallest=32, why="it halves the image five times")
    return ResNet(
        block=block if strided is None else partial(Bottleneck, strided=strided),
        expansion=block.expansion,
        blocks=blocks,
        num_classes=num_classes,
        in_channels=in_channels,
    )


@validated
def resnet18(*, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3, image_size: PositiveInt = 224) -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1,814,073,344 MACs at 224x224. Raises ``UserError``."""
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), num_classes, in_channels, image_size)


@validated
def resnet34(*, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3, image_size: PositiveInt = 224) -> ResNet:
    """ResNet-34: 21,797,672 parameters, 3,663,761,408 MACs at 224x224. Raises ``UserError``."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), num_classes, in_channels, image_size)


@validated
def resnet50(
    *,
    num_classes: PositiveInt = 1000,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 224,
    strided: Strided = "middle",
) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4,089,184,256 MACs at 224x224 (3,857,973,248 with ``strided="first"``).

    Raises ``UserError``.
    """
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), num_classes, in_channels, image_size, strided=strided)


@validated
def resnet101(
    *,
    num_classes: PositiveInt = 1000,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 224,
    strided: Strided = "middle",
) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7,801,405,440 MACs at 224x224. Raises ``UserError``."""
    return _resnet("resnet101", Bottleneck, (3, 4, 23, 3), num_classes, in_channels, image_size, strided=strided)
