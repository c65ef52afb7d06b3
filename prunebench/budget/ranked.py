"""Channels in the order in which they go."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prunebench.budget.counts import Count, Floor
from prunebench.surgery.equal import Cells
from prunebench.surgery.pieces import completed
from prunebench.surgery.sets import Bits, to_indices


def removal_order(
    scores: Tensor, *, dead: Collection[int] = (), pieces: Sequence[Bits] = (), cells: Cells = ()
) -> list[int]:
    """Channel indices in the order in which they go: the dead ones, then by ascending score, ties by index.

    Args:
        scores: ``[channels]``.
        dead: channels that an earlier step has removed.
        pieces: sets of channels; the best of each go after all others.
        cells: one or two ways to share out the channels; they go in rounds, in each one channel of each of the sets.
    """
    ranked: list[int] = torch.argsort(scores, stable=True).tolist()
    gone = set(dead)
    live = [channel for channel in ranked if channel not in gone]
    if cells:
        return [*_rounds(sorted(gone), cells), *_rounds(live, cells)]
    last = set(to_indices(completed(0, pieces, live)))
    return sorted(gone) + [c for c in live if c not in last] + [c for c in live if c in last]


def _rounds(channels: Sequence[int], cells: Cells) -> list[int]:
    """The ``channels``, of which each cell has equally many, in rounds of one of each; the first ones go first."""
    waiting: dict[tuple[int, int], list[int]] = {}
    for channel in channels:
        waiting.setdefault((_place(channel, cells[0]), _place(channel, cells[-1])), []).append(channel)
    ranks = {channel: rank for rank, channel in enumerate(channels)}
    size, order = len(cells[0]), list[int]()
    while len(order) < len(channels):
        # equally many are left for each cell of both ways, so that there is a perfect matching (Koenig)
        cost = np.full((size, size), float(size * len(channels) + 1))
        for place, line in waiting.items():
            cost[place] = ranks[line[0]] if line else cost[place]
        firsts, lasts = linear_sum_assignment(cost)
        taken = [waiting[place].pop(0) for place in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        order += sorted(taken, key=ranks.__getitem__)
    return order


def _place(channel: int, way: Sequence[Bits]) -> int:
    return next(place for place, cell in enumerate(way) if cell >> channel & 1)


def ranked_scores(scores: Tensor, order: Sequence[int], num_dead: int, *, step: int = 1) -> tuple[float, ...]:
    """The scores in the ``order`` of removal: -inf for the dead, and none below one that goes earlier.

    Channels that go ``step`` at a time have their mean.
    """
    live = scores[list(order[num_dead:])].view(-1, step).mean(1).repeat_interleave(step).tolist()
    return (*[-math.inf] * num_dead, *accumulate(live, max))


@dataclass(frozen=True)
class Unit:
    """Layers that share one keep-set, and the order in which their channels go."""

    layers: tuple[str, ...]
    order: tuple[int, ...]
    scores: tuple[float, ...]  # in the order of removal; -inf for the dead ones
    num_dead: int
    floor: Floor
    step: int = 1  # so many go together, one of each group of a convolution

    def differing(self, ratios: str) -> str:
        """What to tell who asks for several ``ratios``."""
        return (
            f"these layers share their channels (coupling=aligned) but have different ratios: {ratios}; "
            "give them one ratio or use coupling=free"
        )

    @property
    def size(self) -> int:
        """Number of channels in the dense net."""
        return len(self.order)

    def prune(self, num_wanted: int) -> int:
        """How many really go when ``num_wanted`` should: the floor keeps more, the dead stay dead."""
        return max(self.size - self.floor.keep(self.size, self.size - num_wanted), self.num_dead)

    def share(self, count: Count, prune_ratio: float) -> int:
        """How many go at a ratio: the count is that of each group."""
        return self.prune(self.step * count(self.size // self.step, prune_ratio))

    def neighbours(self, num_pruned: int) -> tuple[int, ...]:
        """The next smaller and the next larger number that can go."""
        step = self.floor.round_to
        around = {self.prune(max(num_pruned - step, 0)), self.prune(min(num_pruned + step, self.size))}
        return tuple(sorted(around - {num_pruned}))

    def keep(self, num_pruned: int) -> tuple[int, ...]:
        """Indices that stay, ascending."""
        return tuple(sorted(self.order[num_pruned:]))

    def kept(self, num_pruned: int) -> dict[str, tuple[int, ...]]:
        """The same for each layer."""
        return dict.fromkeys(self.layers, self.keep(num_pruned))
