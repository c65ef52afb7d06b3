"""Pre-activation ResNet-50 for ImageNet: batch norm and ReLU come before each convolution.

He, Zhang, Ren, Sun: Identity mappings in deep residual networks, ECCV 2016, in the form of SSS's official code
(TuSimple/sparse-structure-selection, ``symbol/resnet.py``): the 3x3 convolution has the stride, and where the width or
the resolution changes, a 1x1 convolution reads what the block's first norm and ReLU put out. The norm of that code in
front of the first convolution has no learned scale and is left out: images are normalised already.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size, draw_convolutions

EXPANSION = 4
WIDTHS = (64, 128, 256, 512)


class PreActBottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolution, each after batch norm and ReLU; the shortcut is added, no ReLU follows.

    Args:
        in_channels: width of the stream before.
        width: inside; the stream behind has four times as many channels.
        stride: of the 3x3 convolution and of the shortcut.
        project: the shortcut is a 1x1 convolution.
    """

    def __init__(self, *, in_channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, kernel_size=1, bias=False)
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Conv2d(in_channels, EXPANSION * width, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        active = F.relu(self.bn1(x))
        out = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        total: Tensor = out + (x if self.downsample is None else self.downsample(active))
        return total


class PreResNet(nn.Module):
    """Pre-activation ResNet for images of at least 32x32 pixels; the papers use 224x224.

    Args:
        blocks: bottlenecks in each of the four stages.
        num_classes, in_channels: sizes of the last and the first layer.
    """

    def __init__(self, *, blocks: tuple[int, int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        width = 64
        for index, (count, inner) in enumerate(zip(blocks, WIDTHS, strict=True)):
            self.add_module(f"layer{index + 1}", _stage(count, in_channels=width, width=inner, stride=1 + (index > 0)))
            width = EXPANSION * inner
        self.bn = nn.BatchNorm2d(width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for index in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{index + 1}")(x)
        logits: Tensor = self.fc(self.avgpool(F.relu(self.bn(x))).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions (He et al. 2015)."""
        draw_convolutions(net)


def _stage(blocks: int, *, in_channels: int, width: int, stride: int) -> nn.Sequential:
    """The first block changes the width and the resolution, the others keep both."""
    first = PreActBottleneck(in_channels=in_channels, width=width, stride=stride, project=True)
    wide = EXPANSION * width
    others = [PreActBottleneck(in_channels=wide, width=width, stride=1, project=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


@validated
def preresnet50(
    *, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3, image_size: PositiveInt = 224
) -> PreResNet:
    """PreResNet-50: 25,549,480 parameters, 4,089,184,256 MACs at 224x224. Raises ``UserError``."""
    check_image_size("preresnet50", image_size, smallest=32, why="it halves the image five times")
    return PreResNet(blocks=(3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)
