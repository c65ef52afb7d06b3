"""Masks of single weights: exactly the dead ones are zero and stay so, also after a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.methods.bases.weight_masks import WeightMasks

FIRST = torch.tensor([[True, False, True], [False, False, True]])
LAST = torch.tensor([[False, True]])


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))


def masks() -> WeightMasks:
    """Three of six weights of the first layer and one of two of the last one live; the middle one is not masked."""
    made = WeightMasks()
    made.names = ["0", "4"]
    made.load([FIRST, LAST])
    return made


def test_before_the_first_cut_nothing_is_masked() -> None:
    some, made = net(), WeightMasks()
    made.names = ["0", "4"]
    before = [p.detach().clone() for p in some.parameters()]
    assert list(made.pairs(some)) == [] and (made.num_weights, made.num_live) == (0, 0)
    made.zero(some)
    assert all(torch.equal(p, old) for p, old in zip(some.parameters(), before, strict=True))
    assert made.state_dict() == {}


def test_a_start_lets_all_live_but_revives_nothing() -> None:
    some, made = net(), WeightMasks()
    made.names = ["0", "4"]
    made.start(some)
    assert (made.num_weights, made.num_live) == (8, 8)
    made.load([FIRST, LAST])
    made.start(some)
    assert made.num_live == 4
    assert made.shares(some) == {"0": pytest.approx(0.5), "4": pytest.approx(0.5)}


def test_each_weight_has_its_mask_as_a_view() -> None:
    some, made = net(), masks()
    pairs = list(made.pairs(some))
    assert [weight is some[place].weight for (weight, _), place in zip(pairs, (0, 4), strict=True)] == [True, True]
    assert torch.equal(pairs[0][1], FIRST) and torch.equal(pairs[1][1], LAST)
    pairs[0][1][0, 0] = False
    assert made.num_live == 3


def test_gradients_and_weights_of_the_dead_are_zeroed_and_no_others() -> None:
    some, made = net(), masks()
    made.zero_gradients(some)  # nothing to do before the first backward
    some(torch.randn(5, 3)).square().sum().backward()
    made.zero_gradients(some)
    made.zero(some)
    for place, mask in ((0, FIRST), (4, LAST)):
        layer = some[place]
        weight = some.get_parameter(f"{place}.weight")
        assert weight.grad is not None
        assert torch.equal(weight.grad != 0, mask) and torch.equal(weight != 0, mask)
        assert layer.bias.ne(0).all() and layer.bias.grad.ne(0).all()
    assert some[2].weight.ne(0).all() and some[2].weight.grad.ne(0).all()


def test_momentum_from_before_the_cut_revives_nothing() -> None:
    some, made = net(), masks()
    optimizer = torch.optim.SGD(some.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        some(torch.randn(5, 3)).square().sum().backward()
        if step:  # the first step is dense, so that its momentum pulls at every weight
            made.zero_gradients(some)
        optimizer.step()
        if step == 1:
            assert some[0].weight[~FIRST].ne(0).all()  # masked gradients alone do not hold it
        if step:
            made.zero(some)
            assert torch.equal(some.get_parameter("0.weight") != 0, FIRST)
    assert torch.equal(some.get_parameter("4.weight") != 0, LAST)


def test_masks_are_state_and_names_are_not() -> None:
    some, made, again = net(), masks(), WeightMasks()
    state = made.state_dict()
    assert list(state) == ["live"]
    again.names = ["0", "4"]
    again.start(some)
    again.load_state_dict(state)
    assert all(torch.equal(one, two) for (_, one), (_, two) in zip(made.pairs(some), again.pairs(some), strict=True))
