"""Posterior inclusion probabilities of channels -> the plan of the channels that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunebench.budget.achieved import describe
from prunebench.budget.choose import Choice
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

LIKELY = 0.5
"""The median probability model keeps what is at least so likely to be of use (Barbieri and Berger 2004)."""


def macs_of_a_channel(graph: ChannelGraph, names: Sequence[str]) -> dict[str, int]:
    """Layer -> MACs of one sample that go with one of its channels while all others are there."""
    whole = graph.macs(Plan())
    widths = {name: graph.layers[name].out_channels for name in names}
    return {
        name: whole - graph.macs(Plan({name: tuple(range(1, width))})) if width > 1 else whole
        for name, width in widths.items()
    }


def prices_by_macs(graph: ChannelGraph, names: Sequence[str], price: float) -> dict[str, float]:
    """Layer -> ``price`` of one of its channels x the channel's MACs / their mean over all channels."""
    macs, widths = macs_of_a_channel(graph, names), {name: graph.layers[name].out_channels for name in names}
    mean = sum(macs[name] * width for name, width in widths.items()) / sum(widths.values())
    return {name: price * macs[name] / mean for name in names}


def likely(probabilities: Tensor) -> Tensor:
    """Bool in the same shape: those of at least one half, and in any case the likeliest one."""
    kept = probabilities >= LIKELY
    kept.view(-1)[probabilities.argmax()] = True
    return kept


def choose_by_inclusion(
    probabilities: Mapping[str, Tensor], graph: ChannelGraph, *, target_macs: float | None = None
) -> Choice:
    """The channels that are of use with a probability of at least one half, at least one of each layer.

    Args:
        probabilities: layer -> ``[channels]``.
        graph: of the dense net.
        target_macs: share of the dense net's MACs that stays at most: instead those with the highest probability for
            each MAC stay, as many as fit.

    Raises:
        UserError: the target is out of reach.
    """
    if target_macs is None:
        kept = {name: likely(found) for name, found in probabilities.items()}
    else:
        kept = _within(probabilities, graph, target_macs)
    plan = _plan(kept)
    graph.check(plan)
    achieved: dict[str, Any] = describe(plan, probabilities, graph, targets={"target_macs": target_macs})
    if target_macs is not None:
        achieved["tolerance"] = max(macs_of_a_channel(graph, list(probabilities)).values()) / graph.dense_macs
    reason = "all its channels are likely to be of use" if target_macs is None else "the target leaves room for all"
    return Choice(plan, [{"layer": name, "reason": reason} for name in kept if name not in plan.keep], achieved)


def _within(probabilities: Mapping[str, Tensor], graph: ChannelGraph, target: float) -> dict[str, Tensor]:
    """As many as leave at most this share of the MACs, found by bisection on how many."""
    prices = macs_of_a_channel(graph, list(probabilities))
    values = torch.cat([found.double().cpu() / max(1, prices[name]) for name, found in probabilities.items()])
    sizes = [len(found) for found in probabilities.values()]
    firsts = torch.zeros(len(values), dtype=torch.bool)
    for start, found in zip([sum(sizes[:i]) for i in range(len(sizes))], probabilities.values(), strict=True):
        firsts[start + int(found.argmax())] = True
    # the best of each layer come before all others
    order = torch.argsort(torch.where(firsts, torch.inf, values), descending=True, stable=True)

    def kept(number: int) -> dict[str, Tensor]:
        chosen = torch.zeros(len(values), dtype=torch.bool)
        chosen[order[:number]] = True
        return dict(zip(probabilities, chosen.split(sizes), strict=True))

    def share(number: int) -> float:
        return graph.macs(_plan(kept(number))) / graph.dense_macs

    low, high = len(sizes), len(values)
    if share(low) > target:
        raise UserError(
            f"method.target_macs={target:g} is out of reach: with one channel in each layer that has gates "
            f"{share(low):.4f} of the MACs stay; ask for more"
        )
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if share(middle) <= target else (low, middle - 1)
    return kept(low)


def _plan(kept: Mapping[str, Tensor]) -> Plan:
    cut = {name: mask for name, mask in kept.items() if not bool(mask.all())}
    return Plan({name: tuple(mask.nonzero().flatten().tolist()) for name, mask in cut.items()})
