"""What does nothing is found exactly: the output never changes, and nothing that does something is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.surgery.dead import unread, without_constants
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.surgery.kit import images, largest_difference
from tests.surgery.nets import NETS, build


class Perceptron(nn.Module):
    def __init__(self, last_bias: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2, bias=last_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(F.relu(self.two(F.relu(self.one(x)))))


def perceptron(last_bias: bool = True) -> tuple[Perceptron, ChannelGraph]:
    torch.manual_seed(0)
    net = Perceptron(last_bias).eval()
    return net, ChannelGraph.trace(net, torch.zeros(1, 3))


@torch.no_grad()
def test_constants_move_into_the_next_bias() -> None:
    net, graph = perceptron()
    net.one.weight[1] = 0  # unit 1 is relu(bias)
    net.one.bias[1] = 0.7
    found = without_constants(net, graph, torch.zeros(1, 3))
    assert isinstance(found, Perceptron)
    torch.testing.assert_close(found.two.bias, net.two.bias + 0.7 * net.two.weight[:, 1])
    assert (found.two.weight[:, 1] == 0).all()
    assert unread(net, graph).keep == {}  # it is read as long as it has not moved
    assert unread(found, graph).keep == {"one": (0, 2, 3)}


@torch.no_grad()
def test_a_chain_of_constants_falls_like_dominoes() -> None:
    net, graph = perceptron()
    net.one.weight[[0, 1]] = 0
    net.one.bias[[0, 1]] = torch.tensor([0.3, -0.2])  # 0.3 and relu(-0.2) = 0
    net.two.weight[2, 2:] = 0  # reads the two constants only, so it is one itself
    found = without_constants(net, graph, torch.zeros(1, 3))
    assert unread(found, graph).keep == {"one": (2, 3), "two": (0, 1)}
    small = shrink(found, graph, unread(found, graph))
    x = torch.randn(50, 3)
    assert largest_difference(net, small, x) < 1e-6


@torch.no_grad()
def test_units_that_nobody_reads_take_their_own_inputs_along() -> None:
    net, graph = perceptron()
    net.three.weight[:, 0] = 0  # unit 0 of two is not read
    net.two.weight[1:, 3] = 0  # unit 3 of one is read by that unit only
    assert unread(net, graph).keep == {"one": (0, 1, 2), "two": (1, 2)}


@torch.no_grad()
def test_without_a_bias_a_constant_stays_where_it_is() -> None:
    net, graph = perceptron(last_bias=False)
    net.two.weight[0] = 0
    net.two.bias[0] = 0.5
    found = without_constants(net, graph, torch.zeros(1, 3))
    assert unread(found, graph).keep == {}
    net.two.bias[0] = -0.5  # constantly 0 needs no bias
    assert unread(without_constants(net, graph, torch.zeros(1, 3)), graph).keep == {"two": (1, 2)}


@torch.no_grad()
def test_a_dead_layer_keeps_a_channel() -> None:
    net, graph = perceptron()
    net.three.weight.zero_()
    assert unread(net, graph).keep == {"one": (0,), "two": (0,)}


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_any_net_computes_the_same_without_them(name: str, seed: int) -> None:
    net = build(name).eval()
    graph = ChannelGraph.trace(net, images(1))
    torch.manual_seed(seed)
    for layer in graph.layers:
        weight = net.get_submodule(layer).get_parameter("weight")
        weight[torch.rand(len(weight)) < 0.4] = 0
        if weight.dim() > 1:
            weight[:, torch.rand(weight.shape[1]) < 0.3] = 0
    x = images(5)
    moved = without_constants(net, graph, images(1))
    assert largest_difference(net, moved, x) < 1e-4
    plan = unread(moved, graph)
    assert largest_difference(net, zero(moved, graph, plan), x) < 1e-4
    assert largest_difference(net, shrink(moved, graph, plan), x) < 1e-4
    if any(graph.why_not(layer) is None for layer in graph.layers):
        assert plan.keep
