"""Channels below a processor's step come free: made-up clocks whose answer is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.budget import choose
from prunebench.config import named
from prunebench.core.asked import shortfalls
from prunebench.errors import UserError
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.surgery.graph import ChannelGraph
from tests.budget.test_by_cost import ByMacs
from tests.small_nets import small_resnet


@pytest.fixture(scope="module")
def chain() -> ChannelGraph:
    """Three convolutions of 32, 40 and 24 channels and a linear layer."""
    widths = (3, 32, 40, 24)
    convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    return ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))


def scored(graph: ChannelGraph) -> dict[str, torch.Tensor]:
    return {
        name: torch.arange(float(layer.out_channels)) for name, layer in graph.layers.items() if not layer.is_output
    }


def widths(graph: ChannelGraph, step: int, ratio: float, **options: Any) -> list[int]:
    found = choose(
        scored(graph), graph, prune_ratio=ratio, timing=ByMacs(graph, step=step), free_channels=True, **options
    )
    return [len(found.plan.keep.get(name, range(graph.layers[name].out_channels))) for name in scored(graph)]


@pytest.mark.parametrize(
    ("step", "ratio", "expected"),
    [
        (1, 0.5, [16, 20, 12]),  # each channel costs
        (16, 0.5, [16, 32, 16]),  # up to the next multiple of 16
        (8, 0.5, [16, 24, 16]),
        (16, 0.25, [32, 32, 24]),  # 24, 30 and 18 asked; of 24 channels the second step of 16 holds all
        (64, 0.5, [32, 40, 24]),  # nothing to gain at all
    ],
)
def test_widths_go_up_to_the_step(chain: ChannelGraph, step: int, ratio: float, expected: list[int]) -> None:
    assert widths(chain, step, ratio) == expected


def test_no_width_above_takes_as_little_time(chain: ChannelGraph) -> None:
    clock = ByMacs(chain, step=16)
    plain = choose(scored(chain), chain, prune_ratio=0.6)
    wide = choose(scored(chain), chain, prune_ratio=0.6, timing=clock, free_channels=True)
    assert clock.share(wide.plan) == clock.share(plain.plan)
    assert wide.achieved["channels_kept"] > plain.achieved["channels_kept"]
    assert wide.achieved["channels_asked"] == plain.achieved["channels_asked"]
    kept = [len(wide.plan.keep.get(name, range(chain.layers[name].out_channels))) for name in scored(chain)]
    few = [len(plain.plan.keep[name]) for name in scored(chain)]
    extra = sum(kept) - sum(few)
    assert wide.achieved["free_channels"]["num_kept"] == extra
    [said] = shortfalls(wide.achieved)
    assert f"method.free_channels keeps {extra} channels" in said


def test_a_layer_of_which_all_channels_are_free_says_so(chain: ChannelGraph) -> None:
    found = choose(scored(chain), chain, prune_ratio=0.5, timing=ByMacs(chain, step=64), free_channels=True)
    assert {entry["reason"] for entry in found.not_pruned} == {"the net would be no faster without any of its channels"}


def test_what_stays_of_a_residual_stream_is_counted_in_its_width() -> None:
    net = small_resnet(num_classes=10, in_channels=1)
    graph = ChannelGraph.trace(net, torch.zeros(1, 1, 8, 8))
    clock = ByMacs(graph, step=4)
    scores = {
        name: torch.arange(float(layer.out_channels)) for name, layer in graph.layers.items() if not layer.is_output
    }
    for coupling in ("free", "aligned"):
        plain = choose(scores, graph, prune_ratio=0.4, coupling=coupling)
        wide = choose(scores, graph, prune_ratio=0.4, coupling=coupling, timing=clock, free_channels=True)
        assert clock.share(wide.plan) <= clock.share(plain.plan) * 1.01
        assert wide.achieved["channels_kept"] >= plain.achieved["channels_kept"]


def test_made_up_scores_are_not_timed(chain: ChannelGraph) -> None:
    assert widths(chain, 16, 0.5, measured=False) == [16, 20, 12]


@pytest.mark.parametrize("other", [{"target_macs": 0.5}, {"target_params": 0.5}, {"like": "somewhere"}])
def test_what_fixes_the_number_of_channels_is_refused(other: dict[str, Any]) -> None:
    settings = {"_target_": "prunebench.criteria.scorers.FilterNorm", "order": 1}
    criterion = named.build("method.criterion", settings)
    with pytest.raises(UserError, match="free_channels keeps more"):
        FilterPruning(criterion=criterion, free_channels=True, **other)
