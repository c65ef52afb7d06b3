"""What all tests of surgery do with the small nets."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.nets import build


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 8, 8)


def draw_plan(graph: ChannelGraph, rng: random.Random, *, share: float = 0.6) -> Plan:
    """Each layer that can be cut keeps a random set of its own; some keep all."""
    keep = {}
    for name, layer in graph.layers.items():
        if graph.why_not(name) is None and rng.random() < 0.9:
            num_kept = max(1, round(layer.out_channels * rng.uniform(share - 0.3, share + 0.3)))
            keep[name] = tuple(sorted(rng.sample(range(layer.out_channels), min(num_kept, layer.out_channels))))
    return Plan(keep)


def largest_difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


def counted(net: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """(MACs of one sample, parameters) of a real net."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x[:1])
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters())


def small_net(name: str, seed: int = 0) -> tuple[nn.Module, nn.Module, ChannelGraph, Plan]:
    net = build(name)
    graph = ChannelGraph.trace(net, images(1))
    plan = draw_plan(graph, random.Random(seed))
    return shrink(net, graph, plan), net, graph, plan
