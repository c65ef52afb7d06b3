"""Inclusion probabilities by hand: one half, at least one, and the most that fits a budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.budget.by_inclusion import choose_by_inclusion, likely, macs_of_a_channel
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph


def graph() -> ChannelGraph:
    """6-4-2-3: 24 + 8 + 6 = 38 MACs."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    return ChannelGraph.trace(net, torch.zeros(1, 6))


PROBABILITIES = {"0": torch.tensor([0.9, 0.5, 0.49, 0.1]), "2": torch.tensor([0.2, 0.3])}


def test_one_half_stays_and_the_likeliest_in_any_case() -> None:
    assert likely(torch.tensor([0.5, 0.49, 0.9])).tolist() == [True, False, True]
    assert likely(torch.tensor([[0.1, 0.2], [0.4, 0.3]])).tolist() == [[False, False], [True, False]]
    choice = choose_by_inclusion(PROBABILITIES, graph())
    assert choice.plan.keep == {"0": (0, 1), "2": (1,)}
    assert choice.achieved["channels_kept"] == 3 / 6 and choice.achieved["macs_kept"] == (12 + 2 + 3) / 38
    whole = choose_by_inclusion({"0": torch.ones(4), "2": torch.ones(2)}, graph())
    assert whole.plan.keep == {} and [row["layer"] for row in whole.not_pruned] == ["0", "2"]


def test_a_channel_costs_its_row_and_its_columns() -> None:
    assert macs_of_a_channel(graph(), ["0", "2"]) == {"0": 6 + 2, "2": 4 + 3}


def test_a_budget_takes_the_likeliest_for_their_macs() -> None:
    # 0.9/8 and 0.3/7 are the best of their layers; then 0.5/8 = 0.0625, 0.49/8 = 0.061, 0.2/7 = 0.029, 0.1/8 = 0.0125
    sizes = {1: (6 + 1 + 3), 2: (12 + 2 + 3), 3: (18 + 3 + 3), 4: (18 + 6 + 6), 5: 38}
    kept = {1: ((0,), (1,)), 2: ((0, 1), (1,)), 3: ((0, 1, 2), (1,)), 4: ((0, 1, 2), None), 5: (None, None)}
    for number, macs in sizes.items():
        choice = choose_by_inclusion(PROBABILITIES, graph(), target_macs=min(1.0, (macs + 0.5) / 38))
        assert (choice.plan.keep.get("0"), choice.plan.keep.get("2")) == kept[number]
        assert choice.achieved["reached"] == macs / 38
    with pytest.raises(UserError, match=r"target_macs=0.2 is out of reach.* 0.2632 of the MACs stay"):
        choose_by_inclusion(PROBABILITIES, graph(), target_macs=0.2)
