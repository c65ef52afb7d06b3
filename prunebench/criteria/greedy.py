"""Channels chosen from input to output, where the scores of a layer depend on what the layers before it keep."""

from __future__ import annotations

import torch
from torch import nn

from prunebench.budget.ranked import removal_order
from prunebench.criteria.scorers import Criterion, look_at
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


def live_inputs(name: str, graph: ChannelGraph, plan: Plan) -> list[int] | None:
    """Input channels (features of a linear layer) of ``name`` that ``plan`` leaves; None if all of them.

    Only layers that ``name`` reads without an addition in between can take inputs away: the stream behind an
    addition keeps its width.
    """
    writers = [layer for layer in graph.layers.values() if name in layer.readers and layer.name in plan.keep]
    if len(writers) != 1:
        return None
    kept, width = plan.keep[writers[0].name], writers[0].out_channels
    taps = graph.layers[name].in_channels // width  # of a linear layer behind a flatten: H*W columns a channel
    return [channel * taps + tap for channel in kept for tap in range(taps)]


def in_order(criterion: Criterion, plan: Plan, net: nn.Module, graph: ChannelGraph, before: Plan) -> Plan:
    """As many channels as in ``plan``, chosen from input to output by what the layers before have kept.

    Args:
        criterion: one whose scores depend on the live inputs.
        plan: how many channels stay in each layer.
        net: with the dense net's shapes.
        graph: of the dense net.
        before: what has been cut already stays cut.
    """
    chosen = Plan()
    for name in (name for name in graph.layers if name in plan.keep):
        live = live_inputs(name, graph, chosen)
        scores = criterion(look_at(name, net, graph, torch.Generator(), live_inputs=live)).cpu()
        dead = set(range(len(scores))) - set(before.keep.get(name, range(len(scores))))
        order = removal_order(scores, dead=dead, pieces=graph.pieces(name))
        chosen = Plan(keep={**chosen.keep, name: tuple(sorted(order[len(order) - len(plan.keep[name]) :]))})
    return chosen
