from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench import criteria
from prunebench.criteria.greedy import live_inputs
from prunebench.criteria.scorers import (
    BatchNormStatistic,
    FilterNorm,
    GeometricMedian,
    Random,
    look_at,
)
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


class Net(nn.Module):
    """conv - bn - relu - conv - silu - conv - (+) - flatten - linear - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 6, 1)
        self.hidden = nn.Linear(6 * 4 * 4, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.second(torch.relu(self.norm(self.first(x)))))
        x = x + self.third(x)
        return self.last(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture
def net() -> nn.Module:
    net = Net()
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    return net


@pytest.fixture
def graph(net: nn.Module) -> ChannelGraph:
    return ChannelGraph.trace(net, torch.zeros(1, 3, 4, 4))


def scores(criterion: criteria.scorers.Criterion, net: nn.Module, graph: ChannelGraph, name: str) -> torch.Tensor:
    return criterion(look_at(name, net, graph, torch.Generator().manual_seed(0)))


def test_each_object_calls_its_function(net: Net, graph: ChannelGraph) -> None:
    weight, beta, gamma = net.first.weight, net.norm.bias, net.norm.weight
    for criterion, expected in (
        (FilterNorm(order=1), criteria.l1_norm(weight)),
        (FilterNorm(order=2), criteria.l2_norm(weight)),
        (GeometricMedian(), criteria.geometric_median(weight)),
        (GeometricMedian(norm_ratio=0.3), criteria.mixed(weight, num_by_norm=2)),  # floor(8 * 0.3)
        (BatchNormStatistic(statistic="std"), criteria.std(beta, gamma)),
        (BatchNormStatistic(statistic="gamma"), gamma.abs().double()),
        (
            BatchNormStatistic(statistic="mean_x_next"),
            criteria.mean(beta, gamma) * net.second.weight.double().abs().sum(dim=(0, 2, 3)),
        ),
        (Random(), criteria.random(8, torch.Generator().manual_seed(0))),
    ):
        torch.testing.assert_close(scores(criterion, net, graph, "first"), expected.detach())


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_a_leaky_relu_counts_with_its_own_slope(slope: float) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.LeakyReLU(slope), nn.Conv2d(2, 1, 1))
    nn.init.constant_(net.get_parameter("1.bias"), -1.0)
    nn.init.zeros_(net.get_parameter("1.weight"))  # always -1, so what comes out is always -slope
    graph = ChannelGraph.trace(net, torch.zeros(1, 1, 4, 4))
    found = scores(BatchNormStatistic(statistic="mean"), net, graph, "0")
    torch.testing.assert_close(found, torch.full((2,), slope, dtype=torch.float64))


def test_what_has_no_score_says_why(graph: ChannelGraph) -> None:
    mean = BatchNormStatistic(statistic="mean")
    assert mean.refuses(graph.layers["first"]) is None
    assert mean.refuses(graph.layers["second"]) == "no norm layer follows"
    assert GeometricMedian().refuses(graph.layers["second"]) is None


def test_statistics_of_unknown_activations_and_without_readers_are_refused() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.silu(self.bn1(self.conv1(x)))
            return self.fc((x + self.bn2(self.conv2(x))).mean((2, 3)))

    graph = ChannelGraph.trace(Block(), torch.zeros(1, 3, 4, 4))
    first, second = graph.layers["conv1"], graph.layers["conv2"]
    assert BatchNormStatistic(statistic="mean").refuses(first) == "there is no closed form for the activation silu"
    assert BatchNormStatistic(statistic="gamma").refuses(first) is None
    assert BatchNormStatistic(statistic="mean").refuses(second) is None  # a linear output has one
    reason = BatchNormStatistic(statistic="shift").refuses(second)
    assert reason == "the statistic shift needs a layer that reads it before an addition"


def test_live_inputs_follow_the_plan(graph: ChannelGraph) -> None:
    plan = Plan(keep={"first": (1, 4), "hidden": (0, 2, 3)})
    assert live_inputs("second", graph, plan) == [1, 4]
    assert live_inputs("last", graph, plan) == [0, 2, 3]
    assert live_inputs("third", graph, plan) is None  # nothing cut before it
    assert live_inputs("hidden", graph, Plan(keep={"second": (0,)})) is None  # behind an addition

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 4, 2))
    flat = ChannelGraph.trace(net, torch.zeros(1, 3, 2, 2))
    assert live_inputs("2", flat, Plan(keep={"0": (1, 3)})) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_greedy_counts_live_inputs_only(net: Net, graph: ChannelGraph) -> None:
    criterion = FilterNorm(order=1, strategy="greedy")
    assert criterion.in_order
    subject = look_at("second", net, graph, torch.Generator(), live_inputs=[0, 5])
    expected = net.second.weight[:, [0, 5]].abs().sum(dim=(1, 2, 3)).double()
    torch.testing.assert_close(criterion(subject), expected.detach())


def test_mistakes_name_the_option() -> None:
    with pytest.raises(UserError, match="order must be one of 1, 2, got 3"):
        FilterNorm(order=3)
    with pytest.raises(
        UserError, match="strategy must be one of independent, greedy, got 'greddy'; did you mean greedy"
    ):
        FilterNorm(order=1, strategy="greddy")
    with pytest.raises(UserError, match=r"greedy is defined for the L1 norm; set method.criterion.order=1"):
        FilterNorm(order=2, strategy="greedy")
    with pytest.raises(UserError, match=r"norm_ratio .* got 1.0"):
        GeometricMedian(norm_ratio=1.0)
    with pytest.raises(UserError, match=r"statistic must be one of mean, .* got 'men'; did you mean mean"):
        BatchNormStatistic(statistic="men")
