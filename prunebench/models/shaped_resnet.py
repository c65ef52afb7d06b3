"""ResNets whose convolutions may have any width and whose stages any number of blocks.

Dong, Yang: Network pruning via transformable architecture search, NeurIPS 2019; the nets that its search starts from
and those that it ends with. Three stages for small pictures (depth 6n + 2 with basic blocks, 9n + 2 with bottlenecks)
or the four of ImageNet. Where a block halves the resolution its shortcut is a mean of 2x2 pixels and a 1x1 convolution;
where only the width changes it is a 1x1 convolution, and the identity else. For ImageNet a batch norm follows both, for
small pictures only the second one of basic blocks. A residual stream has no width of its own: each block decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.errors import UserError
from prunebench.models import check_image_size, draw_convolutions, draw_linear
from prunebench.models.shaped_blocks import Layout, ShapedBlock

Widths = Sequence[PositiveInt] | None


class ShapedResNet(nn.Module):
    """A ResNet of any shape.

    Args:
        layout: of the whole net.
        blocks: kept in each stage, the first ones; None = all.
        widths: of the stem and of each convolution on the main path that is kept, in order; None = whole.
        num_classes, in_channels: sizes of the last and the first layer.
        zero_init_residual: the last norm of each block starts at 0.

    Raises:
        UserError: the numbers of blocks or widths do not fit the layout.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        blocks: Sequence[int] | None,
        widths: Sequence[int] | None,
        num_classes: int,
        in_channels: int,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        blocks = _checked_blocks(layout, blocks)
        widths = _checked_widths(layout, blocks, widths)
        self.layout, self.blocks, self.widths = layout, tuple(blocks), tuple(widths)
        self.zero_init_residual = zero_init_residual
        kernel = 7 if layout.imagenet else 3
        stride = 2 if layout.imagenet else 1
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if layout.imagenet else nn.Identity()
        place, convs = 0, len(layout.stage_widths(0))
        for stage, num in enumerate(blocks):
            layers = []
            for index in range(num):
                halves = 2 if stage and not index else 1
                layers.append(ShapedBlock(widths[place : place + convs + 1], stride=halves, imagenet=layout.imagenet))
                place += convs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], num_classes)
        self.initialise(self)

    def stages(self) -> list[list[ShapedBlock]]:
        """The blocks of each stage."""
        return [list(self.get_submodule(f"layer{n + 1}").children()) for n in range(len(self.blocks))]  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(len(self.blocks)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits

    def initialise(self, net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions, N(0, 0.01^2) for the classifier, norms 1 and 0."""
        draw_convolutions(net, norm_scale=1.0)
        draw_linear(net, std=0.01)
        if self.zero_init_residual:
            for stage, num in enumerate(self.blocks):
                for index in range(num):
                    last = f"layer{stage + 1}.{index}.bn{len(self.layout.stage_widths(0))}.weight"
                    nn.init.zeros_(net.get_parameter(last))


def _checked_blocks(layout: Layout, blocks: Sequence[int] | None) -> list[int]:
    if blocks is None:
        return list(layout.blocks)
    if len(blocks) != len(layout.blocks) or any(n > whole for n, whole in zip(blocks, layout.blocks, strict=True)):
        raise UserError(
            f"model.blocks must have {len(layout.blocks)} numbers, of at most {list(layout.blocks)} for {layout.name}, "
            f"got {list(blocks)}"
        )
    return list(blocks)


def _checked_widths(layout: Layout, blocks: Sequence[int], widths: Sequence[int] | None) -> list[int]:
    whole = layout.widths(blocks)
    if widths is None:
        return whole
    if len(widths) != len(whole):
        raise UserError(
            f"model.widths must have {len(whole)} numbers for {layout.name} with blocks {list(blocks)}: the stem's, "
            f"then {len(layout.stage_widths(0))} of each block; got {len(widths)}"
        )
    return list(widths)


def _small(
    depth: int,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: Widths,
    blocks: Widths,
    width: int,
    *,
    bottleneck: bool = False,
) -> ShapedResNet:
    name = f"shaped_resnet{depth}"
    check_image_size(name, image_size, smallest=4, why="two stages halve the image")
    num = (depth - 2) // (9 if bottleneck else 6)
    layout = Layout(name, width, (num, num, num), bottleneck=bottleneck)
    return ShapedResNet(layout, blocks=blocks, widths=widths, num_classes=num_classes, in_channels=in_channels)


@validated
def shaped_resnet20(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 16,
) -> ShapedResNet:
    """ResNet-20, whole: 272,282 parameters, 40,813,184 MACs. Raises ``UserError``."""
    return _small(20, num_classes, in_channels, image_size, widths, blocks, width)


@validated
def shaped_resnet32(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 16,
) -> ShapedResNet:
    """ResNet-32, whole: 466,714 parameters, 69,124,736 MACs. Raises ``UserError``."""
    return _small(32, num_classes, in_channels, image_size, widths, blocks, width)


@validated
def shaped_resnet56(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 16,
) -> ShapedResNet:
    """ResNet-56, whole: 855,578 parameters, 125,747,840 MACs. Raises ``UserError``."""
    return _small(56, num_classes, in_channels, image_size, widths, blocks, width)


@validated
def shaped_resnet110(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 16,
) -> ShapedResNet:
    """ResNet-110, whole: 1,730,522 parameters, 253,149,824 MACs. Raises ``UserError``."""
    return _small(110, num_classes, in_channels, image_size, widths, blocks, width)


@validated
def shaped_resnet164(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 16,
) -> ShapedResNet:
    """ResNet-164 with bottlenecks, whole: 247,646,720 MACs. Raises ``UserError``."""
    return _small(164, num_classes, in_channels, image_size, widths, blocks, width, bottleneck=True)


def _large(
    layout: Layout,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: Widths,
    blocks: Widths,
    zero_init_residual: bool,
) -> ShapedResNet:
    check_image_size(layout.name, image_size, smallest=32, why="it halves the image five times")
    return ShapedResNet(
        layout,
        blocks=blocks,
        widths=widths,
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )


@validated
def shaped_resnet18(
    *,
    num_classes: PositiveInt = 1000,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 224,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 64,
    zero_init_residual: bool = True,
) -> ShapedResNet:
    """ResNet-18 for ImageNet, whole: 11,689,512 parameters, 1,814,073,344 MACs at 224x224. Raises ``UserError``."""
    layout = Layout("shaped_resnet18", width, (2, 2, 2, 2), imagenet=True)
    return _large(layout, num_classes, in_channels, image_size, widths, blocks, zero_init_residual)


@validated
def shaped_resnet50(
    *,
    num_classes: PositiveInt = 1000,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 224,
    widths: Widths = None,
    blocks: Widths = None,
    width: PositiveInt = 64,
    zero_init_residual: bool = True,
) -> ShapedResNet:
    """ResNet-50 for ImageNet, whole: 25,557,032 parameters, 4,089,184,256 MACs at 224x224. Raises ``UserError``."""
    layout = Layout("shaped_resnet50", width, (3, 4, 6, 3), bottleneck=True, imagenet=True)
    return _large(layout, num_classes, in_channels, image_size, widths, blocks, zero_init_residual)
