"""What is ranked as one: a layer, or under ``coupling: aligned`` the layers whose outputs meet in an addition."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prunebench.budget.counts import Count, Floor
from prunebench.errors import UserError, nearest
from prunebench.surgery.equal import Cells
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.pieces import completed
from prunebench.surgery.plan import Plan
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


def num_needed(pieces: Sequence[Bits], order: Sequence[int]) -> int:
    """How many channels, the last ones in the ``order`` of removal, leave one in each of the pieces; 1 without any."""
    missing, number = list(pieces), 0
    while missing:
        number += 1
        missing = [bits for bits in missing if not bits >> order[-number] & 1]
    return max(number, 1)


def normalised(scores: Tensor, how: str) -> Tensor:
    """Scores of one layer divided by their mean size, largest size or L2 norm, or (``none``) as they are."""
    if how == "none":
        return scores
    sizes = scores.abs()
    scale = sizes.mean() if how == "mean" else sizes.max() if how == "max" else torch.linalg.vector_norm(scores)
    return scores / scale if scale > 0 else scores


def check_scores(scores: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """The scores on the CPU in float64, in the order of execution.

    Raises:
        UserError: none at all, an unknown layer, or a score that is not finite.
    """
    if not scores:
        raise UserError("nothing to prune: no layer has scores; check which layers the method selects")
    for name, values in scores.items():
        if name not in graph.layers:
            raise UserError(f"scores for '{name}', which is no layer of the net{nearest(name, graph.layers)}")
        width = graph.layers[name].out_channels
        if tuple(values.shape) != (width,):
            raise ValueError(f"layer {name} has {width} channels but scores of shape {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"the scores of layer {name} are not finite; has the training diverged?")
    return {name: scores[name].detach().cpu().double() for name in graph.layers if name in scores}


def make_units(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    *,
    coupling: str,
    fixed: Collection[str],
    before: Plan,
    normalise: str,
    floor: Floor,
) -> tuple[list[Unit], dict[str, str]]:
    """Group the layers and rank their channels.

    Under ``aligned`` the scores of a group's members are added (after ``normalise``): a channel of the stream is
    worth what it is worth to all that write it. Members without scores follow the others, unless they are ``fixed``.

    Returns:
        The units in the order of execution, and for each scored layer that cannot be cut the reason.
    """
    groups: Sequence[tuple[str, ...]] = [(name,) for name in scores]
    if coupling == "aligned":
        groups = [group for group in graph.groups() if any(name in scores for name in group)]
        grouped = {name for group in groups for name in group}
        groups += [(name,) for name in scores if name not in grouped]  # depthwise ones follow: they say why not
    units: list[Unit] = []
    reasons: dict[str, str] = {}
    alone = [_must_stay_whole(group, graph, fixed) for group in groups]
    together, cells = _together([group for group, why in zip(groups, alone, strict=True) if not why], graph)
    for group, own in zip(groups, alone, strict=True):
        scored = [name for name in group if name in scores]
        why = own or {name: together[name] for name in group if name in together}
        if why:
            culprit, text = next(iter(why.items()))
            shared = f"it shares its channels with {culprit}: {text}"
            reasons |= {name: why.get(name, shared) for name in scored}
            continue
        total = torch.stack([normalised(scores[name], normalise) for name in scored]).sum(dim=0)
        dead = set(range(len(total))).difference(*(before.keep.get(name, range(len(total))) for name in group))
        pieces = sorted({piece for name in group for piece in graph.pieces(name)}, key=int.bit_count)
        equal = cells.get(group[0], ())
        step = len(equal[0]) if equal else 1
        order = removal_order(total, dead=dead, pieces=pieces, cells=equal)
        ranked = ranked_scores(total, order, len(dead), step=step)
        own_floor = replace(floor, round_to=math.lcm(floor.round_to, step))
        own_floor = own_floor.at_least(num_needed(pieces, order))
        units.append(Unit(group, tuple(order), ranked, len(dead), own_floor, step))
    return units if floor.min_channels else _without_floors(units, graph), reasons


def _together(groups: Sequence[tuple[str, ...]], graph: ChannelGraph) -> tuple[dict[str, str], dict[str, Cells]]:
    """The layers that must stay whole if all of these groups are cut, with the reason; the others' equal cells."""
    whole: dict[str, str] = {}
    while True:
        left = [group for group in groups if not whole.keys() & set(group)]
        found = graph.must_stay([name for group in left for name in group])
        if not found:
            cells, found = graph.equal_cells(left)
            if not found:
                return whole, cells
        whole |= found


def _must_stay_whole(group: Sequence[str], graph: ChannelGraph, fixed: Collection[str]) -> dict[str, str]:
    """The members of a group that cannot or shall not be cut, with the reason."""
    why: dict[str, str] = {}
    for name in group:
        reason = "it is to stay whole" if name in fixed else graph.why_not(name, equally=True)
        if reason is not None:
            why[name] = reason
    return why


def _without_floors(units: Sequence[Unit], graph: ChannelGraph) -> list[Unit]:
    """Under ``min_channels=0`` the units that something bypasses may lose all channels; the others keep their floor.

    A unit may go if the net still works without it and without all the units before it that may go.
    """
    found: list[Unit] = []
    empty: dict[str, tuple[int, ...]] = {}
    for unit in units:
        without = empty | dict.fromkeys(unit.layers, ())
        try:
            graph.check(Plan(keep=without))
        except UserError:
            found.append(unit)
        else:
            found.append(replace(unit, floor=replace(unit.floor, min_channels=0)))
            empty = without
    return found
