"""Numbers of tensors and memory hold when addresses are used again, and parameters are not copied to be compared."""

from __future__ import annotations

import torch
from torch import nn

from prunebench.surgery.faithful import twin
from prunebench.surgery.weak_numbers import Numbers


def test_no_number_is_used_twice() -> None:
    numbers = Numbers()
    found = [numbers.memory(torch.zeros(1000)) for _ in range(100)]
    assert len(set(found)) == 100
    assert len({numbers.tensor(torch.zeros(1000)) for _ in range(100)}) == 100


def test_views_share_memory_and_are_other_tensors() -> None:
    numbers, x = Numbers(), torch.zeros(6)
    view = x[2:]
    assert numbers.memory(x) == numbers.memory(view) == numbers.memory(x.detach())
    assert numbers.tensor(x) == numbers.tensor(x.relu_()) != numbers.tensor(view)


def test_a_twin_has_the_same_parameters_and_buffers_of_its_own() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    other = twin(net, own=["1"])
    assert other[0].weight is net[0].weight
    assert other[1].weight is not net[1].weight
    other.train()(torch.randn(2, 3, 4, 4))
    assert not torch.equal(other.get_buffer("1.running_mean"), net.get_buffer("1.running_mean"))
