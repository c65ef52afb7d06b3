"""A ResNet that is many: each convolution mixes two of its widths, each stage all of its depths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.layers.width_mixture import MixedConv, candidate_widths, draw_pairs, interpolate_channels, perturbed
from prunebench.methods.bases.shape_costs import NetSizes, Shape, depth_candidates, keep_chances, main_path
from prunebench.models.shaped_blocks import ShapedBlock
from prunebench.models.shaped_resnet import ShapedResNet

STD = 0.01
"""Deviation of the logits at the start."""
Step = tuple[Sequence[int], Tensor]
"""Which candidates of a convolution are mixed, and in which shares."""


class MixedBlock(nn.Module):
    """A block of mixed convolutions; that of the shortcut has the draw of the last one on the main path.

    Args:
        block: of the whole net.
        search_width: its convolutions can be narrower.
    """

    def __init__(self, block: ShapedBlock, *, search_width: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(mixed(conv, search_width=search_width) for conv in main_path(block))
        self.shortcut: MixedConv | None = None
        self.pool: nn.Module = nn.Identity()
        for module in block.shortcut.children():
            if isinstance(module, nn.Conv2d):
                self.shortcut = mixed(module, search_width=search_width)
            elif isinstance(module, nn.AvgPool2d):
                self.pool = module

    def forward(self, x: Tensor, steps: Sequence[Step]) -> Tensor:
        """``[batch, in, height, width]`` to as many channels as the wider of block and shortcut has."""
        out = x
        for place, (conv, step) in enumerate(zip(self.convs, steps, strict=True)):
            out = conv(out, *step)
            if place + 1 < len(self.convs):
                out = F.relu(out)
        kept = x if self.shortcut is None else self.shortcut(self.pool(x), *steps[-1])
        return F.relu(add_first(out, kept))


def mixed(conv: nn.Conv2d, *, search_width: bool) -> MixedConv:
    """``conv`` with its candidate widths, or with the whole one alone."""
    return MixedConv(conv, candidate_widths(conv.out_channels) if search_width else (conv.out_channels,))


def add_first(one: Tensor, other: Tensor) -> Tensor:
    """The sum; the narrower tensor counts for the first channels of the wider one."""
    missing = one.shape[1] - other.shape[1]
    narrow, wide = (other, one) if missing >= 0 else (one, other)
    return wide + F.pad(narrow, (0, 0, 0, 0, 0, abs(missing)))


class ShapeSuperNet(nn.Module):
    """All shapes of a ResNet with shared weights, and the chances of widths and depths.

    Each pass draws anew: Gumbel noise, two widths of each convolution, and shares of all depths.

    Args:
        net: the whole net, whose weights are used.
        example: one input.
        width, depth: what is searched.

    Attributes:
        width_logits: ``[convolutions, candidates]``; ``depth_logits``: ``[stages, candidates]``; None = not searched.
        tau: temperature of the next passes.
    """

    width_known: Tensor
    depth_known: Tensor

    def __init__(self, net: ShapedResNet, example: Tensor, *, width: bool, depth: bool) -> None:
        super().__init__()
        self.sizes = NetSizes.of(net, example)
        self.tau = 1.0
        self.stem = mixed(net.conv1, search_width=width)
        self.maxpool = net.maxpool
        self.stages = nn.ModuleList(
            nn.ModuleList(MixedBlock(block, search_width=width) for block in stage) for stage in net.stages()
        )
        self.pool = net.pool
        self.linear = net.linear
        self.widths = [conv.candidates for conv in self._convs()]
        self.depths = depth_candidates(net.blocks) if depth else [(num,) for num in net.blocks]
        self.register_buffer("width_known", _known(self.widths), persistent=False)
        self.width_logits = nn.Parameter(STD * torch.randn(self.width_known.shape)) if width else None
        known = _known(self.depths)
        self.register_buffer("depth_known", known, persistent=False)
        self.depth_logits = nn.Parameter(STD * torch.randn(known.shape)) if depth else None

    def logits(self) -> list[nn.Parameter]:
        """What says the chances."""
        return [logits for logits in (self.width_logits, self.depth_logits) if logits is not None]

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits ``[batch, classes]``, from one draw."""
        steps, shares = self._draw(), self._depth_shares()
        x = self.maxpool(F.relu(self.stem(x, *next(steps))))
        for stage, blocks in enumerate(self.stages):
            found = []
            for block in cast(Sequence[MixedBlock], blocks):
                x = block(x, list(itertools.islice(steps, len(block.convs))))
                found.append(x)
            x = self._mix([found[depth - 1] for depth in self.depths[stage]], shares[stage])
        x = self.pool(x).flatten(1)
        return F.linear(x, self.linear.weight[:, : x.shape[1]], self.linear.bias)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions in the last pass, of one sample."""
        return sum(module.macs for module in self.modules() if isinstance(module, MixedConv))

    def shape(self) -> Shape:
        """The most probable widths and depths; of equal ones the first."""
        widths = _best(self.width_logits, self.width_known, self.widths)
        return Shape(widths, _best(self.depth_logits, self.depth_known, self.depths))

    def expected_macs(self) -> Tensor:
        """Expected MACs under the chances themselves, without noise and temperature; a scalar with gradients."""
        widths = _means(self.width_logits, self.width_known, self.widths)
        chances = _chances(self.depth_logits, self.depth_known)
        keep = [
            keep_chances(row, depths, len(blocks))
            for row, depths, blocks in zip(chances, self.depths, self.sizes.stages, strict=True)
        ]
        return self.sizes.expected(list(widths), keep)

    def _convs(self) -> Iterator[MixedConv]:
        """On the main path, in order."""
        yield self.stem
        for block in itertools.chain.from_iterable(cast(Sequence[nn.ModuleList], self.stages)):
            yield from cast(MixedBlock, block).convs  # type: ignore[misc]

    def _draw(self) -> Iterator[Step]:
        if self.width_logits is None:
            return ((range(1), self.linear.weight.new_ones(1)) for _ in self.widths)
        found = perturbed(self.width_logits, self.tau, self.width_known)
        index, shares = draw_pairs(found, self.width_known)
        return iter(list(zip(index.tolist(), shares, strict=True)))

    def _depth_shares(self) -> Tensor:
        if self.depth_logits is None:
            return self.depth_known.to(self.linear.weight)
        return perturbed(self.depth_logits, self.tau, self.depth_known).softmax(1)

    def _mix(self, found: Sequence[Tensor], shares: Tensor) -> Tensor:
        if len(found) == 1:
            return found[0]
        top = max(part.shape[1] for part in found)
        total = shares.new_zeros(())
        for share, part in zip(shares, found, strict=False):
            total = total + share * interpolate_channels(part, top)
        return total


def _known(candidates: Sequence[Sequence[int]]) -> Tensor:
    """Which places of a table with a row for each list are taken, bool ``[rows, longest]``."""
    longest = max(len(row) for row in candidates)
    return torch.tensor([[place < len(row) for place in range(longest)] for row in candidates])


def _chances(logits: Tensor | None, known: Tensor) -> Tensor:
    if logits is None:
        return known.float()  # of one choice each
    return logits.masked_fill(~known, -torch.inf).softmax(1)


def _means(logits: Tensor | None, known: Tensor, candidates: Sequence[Sequence[int]]) -> Tensor:
    values = torch.zeros(known.shape)
    for row, own in enumerate(candidates):
        values[row, : len(own)] = torch.tensor(own, dtype=torch.float32)
    return (_chances(logits, known) * values.to(known.device)).sum(1)


def _best(logits: Tensor | None, known: Tensor, candidates: Sequence[Sequence[int]]) -> tuple[int, ...]:
    places = _chances(logits, known).argmax(1).tolist()
    return tuple(own[place] for own, place in zip(candidates, places, strict=True))
