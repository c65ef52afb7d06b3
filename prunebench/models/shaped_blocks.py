"""What a ResNet of any shape is made of: its layout and its blocks, see :mod:`prunebench.models.shaped_resnet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4
"""Output channels of a bottleneck for each channel of its stage, before anything is narrowed."""


class Layout(NamedTuple):
    """The whole net, before its widths and depths are chosen.

    Attributes:
        name: for messages.
        width: channels of the stem and of the first stage; each further stage has twice as many.
        blocks: in each stage.
        bottleneck: 1x1, 3x3, 1x1 convolutions in a block; else 3x3, 3x3.
        imagenet: stem of 7x7 with stride 2 and a pooling, norms in all shortcuts; else a stem of 3x3.
    """

    name: str
    width: int
    blocks: tuple[int, ...]
    bottleneck: bool = False
    imagenet: bool = False

    def stage_widths(self, stage: int) -> list[int]:
        """Widths of the convolutions of one block of a stage (from 0)."""
        width = self.width * 2**stage
        return [width, width, EXPANSION * width] if self.bottleneck else [width, width]

    def widths(self, blocks: Sequence[int]) -> list[int]:
        """Width of the stem, then of each convolution, with so many blocks in each stage."""
        stages = [width for stage, num in enumerate(blocks) for width in num * self.stage_widths(stage)]
        return [self.width, *stages]


class ShapedBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 (with the stride) and 1x1, and a shortcut that is added before the last ReLU.

    Args:
        channels: of the input and of each convolution's output.
        stride: 1 or 2.
        imagenet: where batch norms are in shortcuts, see the module's text.
    """

    def __init__(self, channels: Sequence[int], *, stride: int, imagenet: bool) -> None:
        super().__init__()
        kernels = [3, 3] if len(channels) == 3 else [1, 3, 1]
        strided = kernels.index(3)
        for place, kernel in enumerate(kernels):
            conv = nn.Conv2d(
                channels[place],
                channels[place + 1],
                kernel_size=kernel,
                stride=stride if place == strided else 1,
                padding=kernel // 2,
                bias=False,
            )
            self.add_module(f"conv{place + 1}", conv)
            self.add_module(f"bn{place + 1}", nn.BatchNorm2d(channels[place + 1]))
        self.num_convs = len(kernels)
        normed = imagenet or (stride == 1 and len(kernels) == 2)
        self.shortcut = _shortcut(channels[0], channels[-1], stride=stride, normed=normed)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        out = x
        for place in range(1, self.num_convs + 1):
            out = self.get_submodule(f"bn{place}")(self.get_submodule(f"conv{place}")(out))
            if place < self.num_convs:
                out = F.relu(out)
        return F.relu(out + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, *, stride: int, normed: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    # a picture of odd size is halved like by a convolution with padding
    pool = [nn.AvgPool2d(2, stride=2, ceil_mode=True)] if stride == 2 else []
    return nn.Sequential(*pool, conv, *([nn.BatchNorm2d(out_channels)] if normed else []))
