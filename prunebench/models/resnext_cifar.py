"""CIFAR ResNeXts: bottlenecks whose 3x3 convolution is split into groups, the paths of a block.

Xie, Girshick, Dollár, Tu, He: Aggregated residual transformations for deep neural networks, CVPR 2017, section 5.3.
Depth = 9n + 2; a first convolution of 64 channels, three stages with 256, 512 and 1,024 channels in the stream, and
``cardinality`` groups of ``group_width``, twice and four times as many channels inside. Where the width changes the
shortcut is a 1x1 convolution and a batch norm. ResNeXt-29 is that paper's; ResNeXt-20 and -164 are the depths of SSS,
whose widths are not known to us: their defaults are ours.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions

STEM = 64
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution and a shortcut that is added before the last ReLU.

    Args:
        in_channels, out_channels: of the stream.
        width: inside, all groups together.
        groups: of the 3x3 convolution.
        stride: of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, *, in_channels: int, out_channels: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class CifarResNeXt(nn.Module):
    """ResNeXt for small images; works on any size from 4x4 pixels, the paper uses 32x32.

    Args:
        blocks: bottlenecks a stage.
        cardinality: groups of each 3x3 convolution.
        group_width: channels of a group in the first stage; the others have 2x and 4x as many.
        num_classes, in_channels: sizes of the last and the first layer.
    """

    def __init__(self, *, blocks: int, cardinality: int, group_width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        width = STEM
        for stage in range(3):
            inner, wide = cardinality * group_width * 2**stage, EXPANSION * STEM * 2**stage
            layers = [
                Bottleneck(
                    in_channels=wide if index else width,
                    out_channels=wide,
                    width=inner,
                    groups=cardinality,
                    stride=2 if stage and not index else 1,
                )
                for index in range(blocks)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            width = wide
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(3):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions (He et al. 2015)."""
        draw_convolutions(net)


def _resnext(
    depth: int, num_classes: int, in_channels: int, image_size: int, cardinality: int, group_width: int
) -> CifarResNeXt:
    check_image_size(f"resnext{depth}", image_size, smallest=4, why="two stages halve the image")
    return CifarResNeXt(
        blocks=(depth - 2) // 9,
        cardinality=cardinality,
        group_width=group_width,
        num_classes=num_classes,
        in_channels=in_channels,
    )


@validated
def resnext20(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    cardinality: PositiveInt = 8,
    group_width: PositiveInt = 4,
) -> CifarResNeXt:
    """ResNeXt-20, 8 groups of 4 channels in the first stage. Raises ``UserError``."""
    return _resnext(20, num_classes, in_channels, image_size, cardinality, group_width)


@validated
def resnext29(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    cardinality: PositiveInt = 8,
    group_width: PositiveInt = 64,
) -> CifarResNeXt:
    """ResNeXt-29, 8x64d: 34,426,698 parameters, 5,387,266,048 MACs. Raises ``UserError``."""
    return _resnext(29, num_classes, in_channels, image_size, cardinality, group_width)


@validated
def resnext164(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    cardinality: PositiveInt = 8,
    group_width: PositiveInt = 4,
) -> CifarResNeXt:
    """ResNeXt-164, 8 groups of 4 channels in the first stage. Raises ``UserError``."""
    return _resnext(164, num_classes, in_channels, image_size, cardinality, group_width)
