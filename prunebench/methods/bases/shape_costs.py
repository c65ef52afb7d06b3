"""Multiply-accumulates of a ResNet of any shape, exact or expected, from the sizes of its convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models.shaped_blocks import ShapedBlock
from prunebench.models.shaped_resnet import ShapedResNet


@dataclass(frozen=True)
class Shape:
    """Widths and depths.

    Attributes:
        widths: of the stem and of each convolution of the WHOLE net, in order.
        blocks: that each stage keeps, the first ones.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class BlockSizes:
    """One block of the whole net.

    Attributes:
        areas: kernel area times output positions, of each convolution on the main path.
        positions: of its output.
        halves: it has stride 2, and so a 1x1 convolution in its shortcut, whatever the widths.
        projects: there is such a convolution in the whole net.
    """

    areas: tuple[int, ...]
    positions: int
    halves: bool
    projects: bool


@dataclass(frozen=True)
class NetSizes:
    """The whole net.

    Attributes:
        in_channels, num_classes: of the net.
        stem: kernel area times output positions of the first convolution.
        stages: the blocks of each.
    """

    in_channels: int
    num_classes: int
    stem: int
    stages: tuple[tuple[BlockSizes, ...], ...]

    @classmethod
    def of(cls, net: ShapedResNet, example: Tensor) -> NetSizes:
        """The sizes of ``net`` on inputs like ``example``."""
        positions = _output_positions(net, example)

        def area(conv: nn.Module) -> int:
            assert isinstance(conv, nn.Conv2d)
            return conv.kernel_size[0] * conv.kernel_size[1] * positions[conv]

        def sizes(block: ShapedBlock) -> BlockSizes:
            convs = main_path(block)
            areas = tuple(area(conv) for conv in convs)
            halves = any(conv.stride != (1, 1) for conv in convs)
            return BlockSizes(areas, positions[convs[-1]], halves, not isinstance(block.shortcut, nn.Identity))

        stages = tuple(tuple(sizes(block) for block in stage) for stage in net.stages())
        return cls(net.conv1.in_channels, net.linear.out_features, area(net.conv1), stages)

    def built(self, shape: Shape, *, through_dropped: bool = False) -> int:
        """MACs of the net of ``shape``: convolutions and the classifier, with the 1x1 ones where widths disagree.

        Args:
            through_dropped: what follows a dropped block reads as many channels as it would have had: the estimate
                of the official search (SearchCifarResNet.py:553-620), not the net that is built.
        """
        total, before, place = self.stem * self.in_channels * shape.widths[0], shape.widths[0], 1
        for blocks, kept in zip(self.stages, shape.blocks, strict=True):
            for number, block in enumerate(blocks):
                own = shape.widths[place : place + len(block.areas)]
                place += len(own)
                if number < kept:
                    for area, read, width in zip(block.areas, (before, *own), own, strict=False):
                        total += area * read * width
                    if block.halves or before != own[-1]:
                        total += block.positions * before * own[-1]
                if number < kept or through_dropped:
                    before = own[-1]
        return total + before * self.num_classes

    def expected(self, widths: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        """Expected MACs, a scalar with gradients.

        Args:
            widths: the mean width of each convolution of the whole net.
            keep: of each stage ``[blocks]``, the chance that a block stays. Further 1x1 convolutions, where widths
                disagree, are left out, as in the official search.
        """
        total, before, place = self.stem * self.in_channels * widths[0], widths[0], 1
        for blocks, chances in zip(self.stages, keep, strict=True):
            for block, chance in zip(blocks, chances, strict=True):
                own = widths[place : place + len(block.areas)]
                place += len(own)
                macs = torch.stack(
                    [area * a * b for area, a, b in zip(block.areas, (before, *own), own, strict=False)]
                ).sum()
                if block.projects:
                    macs = macs + block.positions * before * own[-1]
                total, before = total + chance * macs, own[-1]
        return total + before * self.num_classes

    def arguments(self, shape: Shape) -> dict[str, Any]:
        """``shape`` as arguments of the model: only what is kept."""
        widths, place = [shape.widths[0]], 1
        for blocks, kept in zip(self.stages, shape.blocks, strict=True):
            for number, block in enumerate(blocks):
                if number < kept:
                    widths += shape.widths[place : place + len(block.areas)]
                place += len(block.areas)
        return {"widths": widths, "blocks": list(shape.blocks)}


def main_path(block: ShapedBlock) -> list[nn.Conv2d]:
    """The convolutions of ``block`` but for that of the shortcut."""
    return [block.get_submodule(f"conv{place + 1}") for place in range(block.num_convs)]  # type: ignore[misc]


def depth_candidates(blocks: Sequence[int]) -> list[tuple[int, ...]]:
    """How many blocks each stage may keep (SearchCifarResNet.py:17-29).

    Stages of equal depth n: 1, 3, 5, ... and n; all up to 3. Of different ones, with the smallest d: ``int(n j / d)``.
    """
    smallest = min(blocks)
    if any(n != smallest for n in blocks):
        return [tuple(sorted({n * j // smallest for j in range(1, smallest + 1)})) for n in blocks]
    steps = range(1, smallest + 1, 1 if smallest <= 3 else 2)
    return [tuple(sorted({*steps, smallest}))] * len(blocks)


def keep_chances(chances: Tensor, candidates: Sequence[int], num_blocks: int) -> Tensor:
    """Chance that each block of a stage is kept, ``[num_blocks]``, from those of the depths, ``[candidates]``."""
    return torch.stack(
        [chances[[i for i, depth in enumerate(candidates) if depth > number]].sum() for number in range(num_blocks)]
    )


def _output_positions(net: ShapedResNet, example: Tensor) -> Mapping[nn.Module, int]:
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        found[module] = output.shape[-2] * output.shape[-1]

    hooks = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, nn.Conv2d)]
    training = net.training
    with torch.no_grad():
        net.eval()(example.to(next(net.parameters()).device))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return found
