from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.measure.batch_norm import refreshed

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def constant_batches(*pairs: tuple[float, int]) -> Batches:
    """Batches of one feature: all values equal ``mean``, ``size`` of them."""
    return [(torch.full((size, 1), mean), torch.zeros(size)) for mean, size in pairs]


def test_batches_count_by_their_size() -> None:
    net = nn.BatchNorm1d(1)
    found = refreshed(net, constant_batches((1.0, 4), (2.0, 4), (4.0, 2)), seed=0)
    assert found.running_mean.item() == pytest.approx(2.0)  # (4 + 8 + 8) / 10
    assert found.running_var.item() == pytest.approx(0.0)  # nothing is left of the initial 1
    assert net.running_mean.item() == 0.0  # the argument is left alone


def test_one_batch_gives_its_own_statistics_whatever_was_there() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    net[1].running_mean.fill_(7.0)
    images = torch.randn(16, 3, 4, 4)
    found = refreshed(net.eval(), [(images, torch.zeros(16))], seed=0)
    outputs = net[0](images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[1].running_mean, outputs.mean(1))
    torch.testing.assert_close(found[1].running_var, outputs.var(1))


def test_modes_momenta_and_the_random_stream_stay() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.BatchNorm1d(4, momentum=0.3)).eval()
    net[2].train()
    batches = [(torch.randn(8, 1), torch.zeros(8)) for _ in range(3)]
    before = torch.get_rng_state()
    found = refreshed(net, batches, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in found.children()] == [False, False, True]
    assert found[2].momentum == 0.3
    again = refreshed(net, batches, seed=0)  # dropout draws the same
    assert torch.equal(again[2].running_mean, found[2].running_mean)


def test_without_batch_norms_no_data_is_read() -> None:
    def never() -> Batches:
        raise AssertionError

    net = nn.Linear(2, 2)
    found = refreshed(net, (batch for _ in range(1) for batch in never()), seed=0)
    assert torch.equal(found.get_parameter("weight"), net.weight)
    assert found is not net
