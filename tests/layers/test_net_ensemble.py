"""A softmax of the ensemble's output is the mean of its members' probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.measure import cost


def test_probabilities_are_averaged_and_all_members_are_counted() -> None:
    torch.manual_seed(0)
    members = [nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))]
    net, x = NetEnsemble(members), torch.randn(4, 5)
    expected = sum(member(x).softmax(1) for member in members) / 2
    torch.testing.assert_close(net(x).softmax(1), expected)
    torch.testing.assert_close(net(x).exp(), expected)
    assert cost.count(net, torch.zeros(1, 5)).macs == 15 + 35 + 21


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(UserError, match="at least one member, got none"):
        NetEnsemble([])
    with pytest.raises(UserError, match="an ensemble of 2 nets needs as many plans, got 1"):
        NetEnsemble([nn.Identity(), nn.Identity()], plans=[""])
