"""Zeroed and shrunk nets compute the same, whatever the structure and the plan."""

from __future__ import annotations

import random

import pytest
from torch import nn

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import counted, draw_plan, images, largest_difference
from tests.surgery.nets import NETS, build

NUM_PLANS = 4


@pytest.mark.parametrize("name", NETS)
def test_random_plans(name: str) -> None:
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    rng = random.Random(1)
    for _ in range(NUM_PLANS):
        plan = draw_plan(graph, rng)
        zeroed, small = zero(net, graph, plan), shrink(net, graph, plan)
        scale = 1.0 + float(zeroed(x).detach().abs().max())
        assert largest_difference(zeroed, small, x) < 1e-5 * scale
        assert largest_difference(net, small, x) > 1e-3, "the plan changes nothing, so the test shows nothing"
        assert (graph.macs(plan), graph.params(plan)) == counted(small, x)
        assert largest_difference(restore(net, graph, plan, small), small, x) < 1e-5 * scale


@pytest.mark.parametrize("name", NETS)
def test_training_mode(name: str) -> None:
    """Batch statistics of a dead channel touch no other one; dropout is the same module in both modes."""
    net, x = build(name), images(6)
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(2))
    zeroed, small = zero(net, graph, plan).train(), shrink(net, graph, plan).train()
    for module in (*zeroed.modules(), *small.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if name == "chain":  # the dense net has the function, whose probability cannot be set
        assert sum(isinstance(module, nn.Dropout) for module in small.modules()) == 1
        assert largest_difference(zeroed, zeroed, x) > 0.0
        return
    assert largest_difference(zeroed, small, x) < 2e-4
    assert largest_difference(restore(net, graph, plan, small).train(), small, x) < 2e-4
    assert not any(module.training for module in shrink(net.eval(), graph, plan).modules())


@pytest.mark.parametrize("name", NETS)
def test_whole_plan_changes_nothing(name: str) -> None:
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    small = shrink(net, graph, Plan())
    assert largest_difference(net, small, x) < 1e-6
    assert counted(net, x) == counted(small, x) == (graph.macs(Plan()), graph.params(Plan()))
    assert {key: value.shape for key, value in small.state_dict().items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }
