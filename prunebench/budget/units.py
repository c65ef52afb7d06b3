"""What is ranked as one: a layer, layers that only work together, or those that meet in an addition (``aligned``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prunebench.budget.bundles import bundle_unit
from prunebench.budget.counts import Floor
from prunebench.budget.ranked import Unit, ranked_scores, removal_order
from prunebench.errors import UserError, nearest
from prunebench.surgery.equal import Cells
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits
from prunebench.surgery.ties import Tie


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


def comparable(scores: Mapping[str, Tensor], how: str) -> dict[str, Tensor]:
    """Scores of layers that are to be compared: each layer's :func:`normalised`, or ``ranks``.

    ``ranks`` is the mean of two shares: of the layer's channels, and of all channels by :func:`normalised` mean scores,
    that a channel is worth more than. Between equal shares of each layer and one threshold through all of them, it
    loses no layer whose scores lie close together (ResNet-56, FPGM, 0.7 of the MACs, right after the cut: 84.8 %
    against 83.2 and 66.4).
    """
    if how != "ranks" or not scores:
        return {name: normalised(values, how) for name, values in scores.items()}
    among_all = _shares_below(torch.cat([normalised(values, "mean") for values in scores.values()]))
    parts = torch.split(among_all, [len(values) for values in scores.values()])
    return {
        name: (_shares_below(values) + part) / 2 for (name, values), part in zip(scores.items(), parts, strict=True)
    }


def _shares_below(values: Tensor) -> Tensor:
    """The share of the ``values`` that each is above, equal ones in their order; ``[n]`` in (0, 1)."""
    places = torch.empty_like(values)
    places[values.argsort(stable=True)] = torch.arange(len(values), dtype=values.dtype)
    return (places + 0.5) / len(values)


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
    even: bool,
) -> tuple[list[Unit], dict[str, str]]:
    """Group the layers and rank their channels.

    Under ``aligned`` the scores of a group's members are added (after :func:`comparable`): a channel of the stream is
    worth what it is worth to all that write it. Members without scores follow the others, unless they are ``fixed``.

    Args:
        even: of a tie, bundles that other layers write go in equal shares, whoever scores more.

    Returns:
        The units in the order of execution, and for each scored layer that cannot be cut the reason.
    """
    scores = comparable(scores, normalise)
    groups: Sequence[tuple[str, ...]] = [(name,) for name in scores]
    if coupling == "aligned":
        groups = [group for group in graph.groups() if any(name in scores for name in group)]
        grouped = {name for group in groups for name in group}
        groups += [(name,) for name in scores if name not in grouped]  # depthwise ones follow: they say why not
    units: list[Unit] = []
    reasons: dict[str, str] = {}
    known = graph.ties
    if coupling == "aligned" and floor.round_to == 1 and floor.min_channels <= 1:  # both are said of single layers
        known += graph.sum_ties
    tied = [tie for tie in known if _is_cut(tie, scores, graph, fixed)]
    groups, of_tie = with_ties(groups, tied)
    alone = [{} if group in of_tie else _must_stay_whole(group, graph, fixed) for group in groups]
    free = [group for group, why in zip(groups, alone, strict=True) if not why]
    together, cells = _together(free, graph, tied)
    for group, own in zip(groups, alone, strict=True):
        scored = [name for name in group if name in scores]
        why = own or {name: together[name] for name in group if name in together}
        if why:
            culprit, text = next(iter(why.items()))
            shared = f"it shares its channels with {culprit}: {text}"
            reasons |= {name: why.get(name, shared) for name in scored}
            continue
        if group in of_tie:
            own_scores = {name: scores[name] for name in scored}
            units.append(bundle_unit(of_tie[group], own_scores, graph, before, floor, even=even))
            continue
        total = torch.stack([scores[name] for name in scored]).sum(dim=0)
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


def _is_cut(tie: Tie, scores: Collection[str], graph: ChannelGraph, fixed: Collection[str]) -> bool:
    """Whether a tie may lose bundles: some layer has scores, none is to stay whole or writes into groups."""
    members = set(tie.layers)
    return bool(members.intersection(scores)) and not members & {*fixed} and not any(map(graph.is_bound, members))


def _together(
    groups: Sequence[tuple[str, ...]], graph: ChannelGraph, tied: Sequence[Tie]
) -> tuple[dict[str, str], dict[str, Cells]]:
    """The layers that must stay whole if all of these groups are cut, with the reason; the others' equal cells."""
    of_tie = {tie.layers for tie in tied}
    whole: dict[str, str] = {}
    while True:
        left = [group for group in groups if not whole.keys() & set(group)]
        found = graph.must_stay([name for group in left for name in group], tied)
        if not found:
            cells, found = graph.equal_cells([group for group in left if group not in of_tie])
            if not found:
                return whole, cells
        whole |= found


def with_ties(
    groups: Sequence[tuple[str, ...]], tied: Sequence[Tie]
) -> tuple[list[tuple[str, ...]], dict[tuple[str, ...], Tie]]:
    """The groups with tied layers as one, in the place of the first of them."""
    of_tie = {tie.layers: tie for tie in tied}
    of_layer = {name: tie.layers for tie in tied for name in tie.layers}
    return list(dict.fromkeys(of_layer.get(group[0], group) for group in groups)), of_tie


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

    A unit may go if the net works without it, alone and without all the units before it that may go: the branch of an
    addition may, but not both, and what a branch has within it (a squeeze-excitation) only where that may go alone.
    """
    found: list[Unit] = []
    empty: dict[str, tuple[int, ...]] = {}
    for unit in units:
        alone = dict.fromkeys(unit.layers, ())
        try:
            for without in (alone, empty | alone):
                graph.check(Plan(keep=without))
        except UserError:
            found.append(unit)
        else:
            found.append(replace(unit, floor=replace(unit.floor, min_channels=0)))
            empty |= alone
    return found
