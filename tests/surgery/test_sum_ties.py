"""Streams that are made by concatenation and go on by additions: what meets there has one set under ``aligned``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.surgery.graph import ChannelGraph
from tests.surgery.kit import images
from tests.surgery.nets import randomise
from tests.surgery.test_split_rules import carried_out


class Fire(nn.Module):
    """Two branches make a stream of ten; a layer and two further branches add to it; it goes on beside a fifth one."""

    def __init__(self) -> None:
        super().__init__()
        self.a6, self.a4 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.whole = nn.Conv2d(10, 10, 3, padding=1)
        self.b6, self.b4 = nn.Conv2d(10, 6, 1), nn.Conv2d(10, 4, 3, padding=1)
        self.down, self.after = nn.Conv2d(10, 5, 3, stride=2, padding=1), nn.Conv2d(15, 15, 1)
        self.head = nn.Linear(15, 4)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.a6(x), self.a4(x)], 1))
        x = x + self.whole(x)
        x = torch.relu(torch.cat([self.b6(x), self.b4(x)], 1) + x)
        x = torch.cat([nn.functional.max_pool2d(x, 2), self.down(x)], 1)
        x = x + self.after(torch.relu(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def sets(choice: budget.Choice, graph: ChannelGraph) -> dict[str, set[int]]:
    return {
        name: set(choice.plan.keep.get(name, range(layer.out_channels)))
        for name, layer in graph.layers.items()
        if not layer.is_output
    }


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.9])
def test_all_that_meet_have_one_set(scope: str, ratio: float) -> None:
    net = Fire()
    graph = ChannelGraph.trace(net, images(1))
    draws = torch.Generator().manual_seed(int(10 * ratio))
    scores = {
        name: torch.rand(layer.out_channels, generator=draws)
        for name, layer in graph.layers.items()
        if not layer.is_output
    }
    choice = budget.choose(scores, graph, prune_ratio=ratio, scope=scope, coupling="aligned", count="keep_floor")
    kept = sets(choice, graph)
    stream = kept["whole"]
    assert kept["a6"] == kept["b6"] == {c for c in stream if c < 6}
    assert kept["a4"] == kept["b4"] == {c - 6 for c in stream if c >= 6}
    assert kept["after"] == stream | {10 + c for c in kept["down"]}
    assert all(kept.values()), "min_channels"
    small = carried_out(net, graph, choice.plan)
    whole = small.get_submodule("whole")
    assert isinstance(whole, nn.Conv2d)
    assert whole.in_channels == whole.out_channels == len(stream)
    if scope == "layer" and ratio == 0.3:  # each part of the stream loses its share, though more layers write the first
        assert (len(kept["a6"]), len(kept["a4"]), len(kept["down"])) == (4, 3, 3)


def test_layers_that_meet_index_by_index_are_no_ties() -> None:
    class Plain(Fire):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(torch.cat([self.a6(x), self.a4(x)], 1))
            x = self.whole(x)
            x = x + self.whole_again(torch.relu(x))
            return self.head(torch.cat([x, self.down(x).repeat(1, 1, 2, 2)], 1).mean((2, 3)))

        def __init__(self) -> None:
            super().__init__()
            self.whole_again = nn.Conv2d(10, 10, 1)

    graph = ChannelGraph.trace(Plain().eval(), images(1))
    assert ("whole", "whole_again") in graph.groups()
    assert graph.sum_ties == ()
    assert len(ChannelGraph.trace(Fire(), images(1)).sum_ties) == 1


class Narrow(nn.Module):
    """Streams of one channel: a part of another stream meets them, where one of two layers is scaled by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(1, 5)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        part = self.wide(x)[:, 1:2]
        one = self.one(part)
        product = (part - one)[:, 0:1] * one
        x = product + self.other(product)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_each_layer_is_cut_or_listed(coupling: str) -> None:
    """A tie with one of two layers that meet would leave the other out, without a word."""
    net = Narrow()
    graph = ChannelGraph.trace(net, images(1))
    scores = {name: torch.rand(layer.out_channels) for name, layer in graph.layers.items() if not layer.is_output}
    choice = budget.choose(scores, graph, prune_ratio=0.5, coupling=coupling)
    assert {*choice.plan.keep, *(entry["layer"] for entry in choice.not_pruned)} == {*scores}
    carried_out(net, graph, choice.plan)
