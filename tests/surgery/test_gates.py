"""Layers that only scale other channels lose what those lose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.errors import UserError
from prunebench.measure.soft_macs import SoftMacs
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.kit import counted, images
from tests.surgery.nets import randomise
from tests.surgery.random_nets import GATES, Excite
from tests.surgery.test_split_rules import carried_out


class Blocks(nn.Module):
    """A stream with gates on the stream and inside of a block."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.one, self.norm, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Excite(8, form)
        self.two, self.other = nn.Conv2d(8, 8, 3, padding=1), Excite(8, form)
        self.last, self.out = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(torch.relu(self.norm(self.one(x))))
        x = torch.relu(x + self.other(self.two(x)))
        logits: Tensor = self.out(torch.relu(self.last(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize("form", GATES)
def test_rows_of_a_gate_go_with_the_channels_that_it_scales(form: str) -> None:
    torch.manual_seed(0)
    net = Blocks(form)
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("gate.up") == graph.why_not("other.up") == "its channels only scale others and go with those"
    assert graph.groups() == (("one", "two"), *((name,) for name in graph.layers if name not in ("one", "two")))
    for plan in (
        Plan({"one": (0, 2, 5), "two": (0, 2, 5)}),
        Plan({"one": (0, 2, 5), "gate.down": (1,), "two": (1, 2, 6, 7)}),
        Plan({"two": (3,) if form in ("view", "shape", "expanded") else ()}),  # those read its sizes
    ):
        small = carried_out(net, graph, plan)
        if kept := plan.keep.get("one"):
            assert small.get_submodule("gate.up").weight.shape[0] in (len(kept), 8)
        assert (graph.macs(plan), graph.params(plan)) == counted(small, images(1))
    small = shrink(net, graph, Plan({"one": (0, 2, 5), "two": (0, 2, 5)}))
    assert small.get_submodule("gate.up").weight.shape[0] == small.get_submodule("other.up").weight.shape[0] == 3
    assert not [name for name, _ in small.named_modules() if "gather" in name or "scatter" in name]


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_sizes_by_shares_are_those_of_the_plan(coupling: str) -> None:
    graph = ChannelGraph.trace(Blocks("plain"), images(1))
    scores = {name: torch.rand(layer.out_channels) for name, layer in graph.layers.items() if name != "out"}
    plan = budget.choose(scores, graph, prune_ratio=0.4, coupling=coupling).plan
    shares = {name: torch.zeros(graph.layers[name].out_channels) for name in plan.keep}
    for name, kept in plan.keep.items():
        shares[name][list(kept)] = 1
    soft = SoftMacs(graph)
    assert (soft(shares).item(), soft.params(shares).item()) == (graph.macs(plan), graph.params(plan))


class Elsewhere(Blocks):
    """The first gate is read by somebody else too; the second one is made of the image, before what it scales."""

    def forward(self, x: Tensor) -> Tensor:
        early = torch.sigmoid(self.other.up(torch.relu(self.other.down(self.one(x).mean((2, 3), keepdim=True)))))
        x = torch.relu(self.norm(self.one(x)))
        gate = torch.sigmoid(self.gate.up(torch.relu(self.gate.down(x.mean((2, 3), keepdim=True)))))
        x = torch.relu(self.two(x * gate)) * early
        logits: Tensor = self.out(torch.relu(self.last(x)).mean((2, 3)))
        return logits + gate.flatten(1)[:, :5]


def test_a_gate_with_other_readers_stays_whole() -> None:
    net = Elsewhere("plain")
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("gate.up") == "its output is the output of the net"
    assert "needs all of them" in str(graph.why_not("other.up"))
    small = carried_out(net, graph, Plan({"two": (0, 4, 5), "last": (1, 2)}))
    assert small.get_submodule("gate.up").weight.shape[0] == small.get_submodule("other.up").weight.shape[0] == 8
    with pytest.raises(UserError, match=r"layer 'gate\.up' cannot lose channels"):
        graph.check(Plan({"gate.up": (0,)}))
