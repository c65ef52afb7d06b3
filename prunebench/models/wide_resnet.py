"""Wide residual nets for CIFAR: few, wide blocks with pre-activation.

Zagoruyko, Komodakis: Wide residual networks, BMVC 2016. Depth = 6n + 4, three stages of n blocks with 16 k, 32 k and
64 k channels. There are two forms. That of the paper (Zagoruyko's ``pytorch/resnet.py``): no convolution has a bias,
the stride is in the first one of a block, and a 1x1 convolution without batch norm reads the activated sum where the
width changes. That of the SWAG paper (``swag/models/wide_resnet.py``): convolutions have a bias, the stride is in the
second one, the 1x1 convolution takes the sum itself, the last batch norm has momentum 0.9, and weights are drawn by
PyTorch's defaults (its ``conv_init`` is never called).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.errors import UserError
from prunebench.models import check_image_size, draw_convolutions

STEM = 16
LAST_MOMENTUM = 0.9


class OriginalBlock(nn.Module):
    """As in the paper: two 3x3 convolutions, each after batch norm and ReLU; the first one has the stride."""

    def __init__(self, *, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        total: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return total


class WideBlock(nn.Module):
    """As in the SWAG paper: two 3x3 convolutions, each after batch norm and ReLU; the second one has the stride."""

    def __init__(self, *, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        total: Tensor = out + self.shortcut(x)
        return total


Block = type[OriginalBlock] | type[WideBlock]


class WideResNet(nn.Module):
    """Wide ResNet for small images; works on any size from 4x4 pixels, the papers use 32x32.

    Args:
        blocks: blocks a stage, ``n`` of the paper.
        widen: factor ``k`` on the widths.
        num_classes, in_channels: sizes of the last and the first layer.
        block: of one form or the other; the stem and the last norm are those of the same form.
    """

    def __init__(self, *, blocks: int, widen: int, num_classes: int, in_channels: int, block: Block) -> None:
        super().__init__()
        swag = block is WideBlock
        widths = [STEM, STEM * widen, 2 * STEM * widen, 4 * STEM * widen]
        self.conv1 = nn.Conv2d(in_channels, STEM, kernel_size=3, padding=1, bias=swag)
        self.layer1 = _stage(block, blocks, in_channels=widths[0], out_channels=widths[1], stride=1)
        self.layer2 = _stage(block, blocks, in_channels=widths[1], out_channels=widths[2], stride=2)
        self.layer3 = _stage(block, blocks, in_channels=widths[2], out_channels=widths[3], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3], momentum=LAST_MOMENTUM if swag else 0.1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.linear(self.pool(F.relu(self.bn1(x))).flatten(1))
        return logits


class OriginalWideResNet(WideResNet):
    """The paper's form: the same with its blocks, and weights drawn as by He et al. 2015."""

    def __init__(self, *, blocks: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__(
            blocks=blocks, widen=widen, num_classes=num_classes, in_channels=in_channels, block=OriginalBlock
        )
        self.initialise(self)

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Convolutions normal with std sqrt(2 / (k^2 out)); norms and the classifier as PyTorch does."""
        draw_convolutions(net)


def _stage(block: Block, blocks: int, *, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The first block changes the width and the resolution, the others keep both."""
    first = block(in_channels=in_channels, out_channels=out_channels, stride=stride)
    others = [block(in_channels=out_channels, out_channels=out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


@validated
def wideresnet28x10(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widen: PositiveInt = 10,
) -> WideResNet:
    """WRN-28-10 in SWAG's form: 36,489,290 parameters, 5,951,117,568 MACs. Raises ``UserError``."""
    check_image_size("wideresnet28x10", image_size, smallest=4, why="two stages halve the image")
    return WideResNet(blocks=4, widen=widen, num_classes=num_classes, in_channels=in_channels, block=WideBlock)


@validated
def wideresnet28x4(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    depth: PositiveInt = 28,
    widen: PositiveInt = 4,
) -> OriginalWideResNet:
    """WRN-depth-widen in the paper's form; 28-4 has 5,849,050 parameters, 845,597,184 MACs for 10 classes.

    Raises:
        UserError: the depth is not 10, 16, 22, …; the images are too small.
    """
    check_image_size("wideresnet28x4", image_size, smallest=4, why="two stages halve the image")
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f"model.depth of a wide ResNet must be 6n + 4 with n >= 1 (10, 16, 22, 28, …), got {depth!r}")
    return OriginalWideResNet(blocks=(depth - 4) // 6, widen=widen, num_classes=num_classes, in_channels=in_channels)
