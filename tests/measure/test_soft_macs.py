"""The cost of shares is the cost of the plan where each share is 0 or 1."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from prunebench.measure.soft_macs import SoftMacs
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.kit import counted, draw_plan, images
from tests.surgery.nets import NETS, build


def shares(graph: ChannelGraph, plan: Plan) -> dict[str, Tensor]:
    found = {}
    for name, layer in graph.layers.items():
        found[name] = torch.zeros(layer.out_channels)
        found[name][list(plan.keep.get(name, range(layer.out_channels)))] = 1
    return found


@pytest.mark.parametrize("name", sorted(NETS))
def test_zeros_and_ones_cost_what_the_shrunk_net_costs(name: str) -> None:
    net = build(name)
    graph = ChannelGraph.trace(net, images(1))
    soft = SoftMacs(graph)
    assert float(soft({next(iter(graph.layers)): torch.ones(next(iter(graph.layers.values())).out_channels)})) == (
        graph.macs(Plan())
    )
    for seed in range(3):
        plan = draw_plan(graph, random.Random(seed))
        assert float(soft(shares(graph, plan))) == graph.macs(plan)
        assert float(soft.params(shares(graph, plan))) == graph.params(plan)
    assert graph.macs(plan) == counted(shrink(net, graph, plan).eval(), images(1))[0]


def test_it_has_gradients() -> None:
    graph = ChannelGraph.trace(build("bottlenecks"), images(1))
    given = {name: torch.full((layer.out_channels,), 0.5, requires_grad=True) for name, layer in graph.layers.items()}
    SoftMacs(graph)(given).backward()
    cut = [name for name in graph.layers if graph.why_not(name) is None]
    assert cut and all(bool((given[name].grad >= 0).all()) and given[name].grad.sum() > 0 for name in cut)
