"""Behind a function that does not map 0 to 0 a removed channel is a constant, which goes into the next bias."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunebench.surgery.dead import unread, without_constants
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import counted, largest_difference


class Gated(nn.Module):
    """A linear layer of the product of another one and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.value(x) * torch.sigmoid(self.gate(x)))
        return logits


class Small(nn.Module):
    """Two convolutions without padding and two linear layers, each hidden one in front of ``activation``."""

    def __init__(self, activation: Callable[[Tensor], Tensor], *, bias: bool = True, padding: int = 0) -> None:
        super().__init__()
        self.activation = activation
        self.one = nn.Conv2d(1, 4, 3)
        self.two = nn.Conv2d(4, 5, 3, padding=padding)
        side = 2 + padding * 2
        self.three = nn.Linear(5 * side * side, 6)
        self.four = nn.Linear(6, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.two(self.activation(self.one(x))))
        found: Tensor = self.four(self.activation(self.three(x.flatten(1))))
        return found


X = torch.zeros(1, 1, 6, 6)
PLAN = Plan(keep={"one": (0, 2), "two": (1, 3, 4), "three": (0, 4)})


@pytest.mark.parametrize("activation", [torch.sigmoid, nn.Sigmoid(), nn.functional.softplus, nn.Softplus(), torch.tanh])
def test_the_small_net_computes_what_the_zeroed_one_does(activation: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = Small(activation).eval(), torch.randn(5, 1, 6, 6)
    graph = ChannelGraph.trace(net, X)
    zeroed, small = zero(net, graph, PLAN), shrink(net, graph, PLAN)
    assert largest_difference(zeroed, small, x) < 1e-5
    assert largest_difference(zeroed, net, x) > 1e-3
    assert (graph.macs(PLAN), graph.params(PLAN)) == counted(small, x)
    assert largest_difference(restore(net, graph, PLAN, small), small, x) < 1e-5


BY_HAND: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * torch.sigmoid(x),
    lambda x: x.sigmoid().mul(x),
    lambda x: x * functional.relu6(x + 3.0, inplace=True) / 6.0,
    lambda x: x * (functional.hardtanh(x + 3, 0.0, 6.0) / 6),
    lambda x: x.mul(functional.softplus(x).tanh()),
    lambda x: 0.5 * x * (1.0 + torch.erf(x / 2**0.5)),
    lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.0447 * torch.pow(x, 3)))),
    lambda x: x / (1 + torch.abs(x)),
    lambda x: torch.relu(x + 0.5) * x,
    lambda x: 2 * torch.sigmoid(x) - 1,
]


@pytest.mark.parametrize("activation", BY_HAND)
def test_what_is_zero_in_the_end_may_be_read_by_anyone(activation: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = Small(activation, bias=False, padding=1).eval(), torch.randn(5, 1, 6, 6)
    graph = ChannelGraph.trace(net, X)
    assert all(graph.why_not(name) is None for name in PLAN.keep)
    zeroed, small = zero(net, graph, PLAN), shrink(net, graph, PLAN)
    assert largest_difference(zeroed, small, x) < 1e-5
    assert largest_difference(zeroed, net, x) > 1e-3
    assert (graph.macs(PLAN), graph.params(PLAN)) == counted(small, x)
    small(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in small.parameters())


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x.sub(0.5),
        lambda x: torch.relu(torch.exp(x) - 3 * torch.sigmoid(x) + 1),
    ],
)
def test_a_constant_that_is_left_goes_into_the_bias(activation: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = Small(activation).eval(), torch.randn(5, 1, 6, 6)
    graph = ChannelGraph.trace(net, X)
    assert largest_difference(zero(net, graph, PLAN), shrink(net, graph, PLAN), x) < 1e-5
    padded = ChannelGraph.trace(Small(activation, padding=1), X)
    assert padded.why_not("one") is not None and padded.why_not("two") is None


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: torch.sigmoid(x) * torch.relu(x.flip(1)),
        lambda x: torch.log(x.abs()),
        lambda x: x / x.abs(),
    ],
)
def test_no_function_of_each_entry_by_itself(activation: Callable[[Tensor], Tensor]) -> None:
    """What mixes entries, or has no value at 0, stays whole, or is a product of followed factors."""
    torch.manual_seed(0)
    net, x = Small(activation, padding=1).eval(), torch.randn(5, 1, 6, 6)
    graph = ChannelGraph.trace(net, X)
    plan = Plan({name: kept for name, kept in PLAN.keep.items() if graph.why_not(name) is None})
    assert "one" not in plan.keep
    assert largest_difference(zero(net, graph, plan), shrink(net, graph, plan), x) < 1e-5


@torch.no_grad()
def test_half_of_the_outgoing_weights_of_a_sigmoid() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1))
    net[2].weight.copy_(torch.tensor([[0.4, -0.6, 1.0]]))
    net[2].bias.fill_(0.1)
    small = shrink(net, ChannelGraph.trace(net, torch.zeros(1, 2)), Plan(keep={"0": (1,)}))
    assert small.get_submodule("2").bias.item() == pytest.approx(0.1 + 0.5 * (0.4 + 1.0))
    few = Plan(keep={"0": (1,)}, inputs={"2": (0, 1)})  # the last column is 0
    small = shrink(net, ChannelGraph.trace(net, torch.zeros(1, 2)), few)
    assert small.get_submodule("2").bias.item() == pytest.approx(0.1 + 0.5 * 0.4)
    softplus = nn.Sequential(net[0], nn.Softplus(), net[2])
    small = shrink(softplus, ChannelGraph.trace(softplus, torch.zeros(1, 2)), Plan(keep={"0": (1,)}))
    assert small.get_submodule("2").bias.item() == pytest.approx(0.1 + math.log(2) * (0.4 + 1.0))


@torch.no_grad()
def test_zero_rows_are_found_and_folded() -> None:
    torch.manual_seed(0)
    net, x = Small(torch.sigmoid).eval(), torch.randn(5, 1, 6, 6)
    for layer, dead in ((net.one, [1]), (net.two, [0, 2]), (net.three, [5])):
        layer.weight[dead] = 0
        layer.bias[dead] = 0
    graph = ChannelGraph.trace(net, X)
    settled = without_constants(net, graph, X)
    plan = unread(settled, graph)
    assert plan == Plan(keep={"one": (0, 2, 3), "two": (1, 3, 4), "three": (0, 1, 2, 3, 4)})
    assert largest_difference(net, shrink(settled, graph, plan), x) < 1e-5


def test_where_the_constant_cannot_go_the_layer_stays_whole() -> None:
    graph = ChannelGraph.trace(Small(torch.sigmoid, bias=False), X)
    assert "sigmoid" in str(graph.why_not("three"))
    assert graph.why_not("two") is None
    # a padded convolution reads zeros beside the constant
    graph = ChannelGraph.trace(Small(torch.sigmoid, padding=1), X)
    assert "sigmoid" in str(graph.why_not("one")) and graph.why_not("two") is None
    # a product: the constant 1/2 of the gate's dead channels meets other numbers, and no bias follows
    graph = ChannelGraph.trace(Gated(), torch.zeros(1, 2))
    assert graph.why_not("gate") == "its channels only scale others and go with those"
    assert graph.why_not("value") is None
