"""Splits and orders, against counting and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from prunebench.data.splits import (
    epoch_order,
    evaluation_chunks,
    hold_out,
    proportional,
    stratified_split,
    stream,
    training_chunks,
)
from prunebench.errors import UserError


@pytest.mark.parametrize("num", [0, 1, 7, 50, 99, 103])
def test_proportional_is_within_one_of_the_exact_share(num: int) -> None:
    counts = torch.tensor([50, 1, 30, 0, 22])
    quota = proportional(counts, num)
    assert int(quota.sum()) == num
    for got, count in zip(quota.tolist(), counts.tolist(), strict=True):
        assert abs(got - Fraction(count * num, 103)) < 1
        assert got <= count


def test_proportional_by_hand() -> None:
    # shares 2.5, 1.5, 1.0 of five: the remainder goes to the first of the equal fractions
    assert proportional(torch.tensor([5, 3, 2]), 5).tolist() == [3, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_a_split_is_a_partition_with_the_quota(seed: int) -> None:
    labels = torch.randint(0, 4, (200,))
    rest, held = hold_out(labels, torch.tensor([5, 0, 10, 1]), seed=seed)
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(200))
    assert torch.bincount(labels[held], minlength=4).tolist() == [5, 0, 10, 1]
    assert torch.equal(held, held.sort().values)


def test_stratified_split_of_balanced_classes_is_balanced() -> None:
    labels = torch.arange(10).repeat(100)
    _, held = stratified_split(labels, 200, seed=3)
    assert torch.bincount(labels[held]).tolist() == [20] * 10


def test_the_seed_decides_the_split() -> None:
    labels = torch.arange(10).repeat(50)
    once, again, other = (stratified_split(labels, 100, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_a_split_is_uniform_within_a_class() -> None:
    hits = torch.zeros(20)
    for seed in range(400):
        hits[stratified_split(torch.zeros(20, dtype=torch.long), 5, seed=seed)[1]] += 1
    # each picture is held out 100 times on average, standard deviation 8.7
    assert float((hits - 100).abs().max()) < 4 * 8.7


def test_seed_and_epoch_are_not_added() -> None:
    pairs = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch).tolist()) for seed, epoch in pairs}
    assert len(orders) == 16
    assert stream("a", 1).initial_seed() != stream("a", 2).initial_seed()


def test_the_order_is_the_same_on_every_machine() -> None:
    # written down once: a change of the generator would silently change every run
    assert epoch_order(8, seed=0, epoch=0).tolist() == [6, 0, 3, 1, 7, 5, 2, 4]


@pytest.mark.parametrize("num", [3, 7, 64, 65, 66, 129, 1000])
@pytest.mark.parametrize("batch_size", [1, 2, 8, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_an_epoch_without_rest(num: int, batch_size: int, world_size: int) -> None:
    order = epoch_order(num, seed=1, epoch=2)
    ranks = [
        training_chunks(order, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert torch.equal(torch.cat([torch.cat(chunks) for chunks in ranks]).sort().values, torch.arange(num))
    assert len({len(chunks) for chunks in ranks}) == 1, "ranks must make the same number of steps"
    sizes = [len(chunk) for chunks in ranks for chunk in chunks]
    assert max(sizes) <= batch_size + 2
    if num >= 2 * world_size and batch_size > 1:
        assert min(sizes) >= 2, "batch normalisation cannot train on one sample"


def test_training_chunks_by_hand() -> None:
    order = torch.arange(10, 27)  # 17 samples
    alone = training_chunks(order, batch_size=8, rank=0, world_size=1)
    assert [chunk.tolist() for chunk in alone] == [list(range(10, 18)), list(range(18, 27))]
    second = training_chunks(order, batch_size=4, rank=1, world_size=2)
    assert [chunk.tolist() for chunk in second] == [[11, 13, 15, 17], [19, 21, 23, 25]]


def test_the_samples_of_a_step_do_not_depend_on_the_number_of_ranks() -> None:
    order = epoch_order(96, seed=0, epoch=0)
    alone = training_chunks(order, batch_size=32, rank=0, world_size=1)
    pair = [training_chunks(order, batch_size=16, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(3):
        together = torch.cat([pair[0][step], pair[1][step]])
        assert torch.equal(together.sort().values, alone[step].sort().values)


def test_too_many_ranks() -> None:
    with pytest.raises(UserError, match="3 training samples cannot be shared by 4 processes"):
        training_chunks(torch.arange(3), batch_size=8, rank=0, world_size=4)


@pytest.mark.parametrize("num", [0, 1, 10, 37])
@pytest.mark.parametrize("batch_size", [1, 5, 10, 100])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_visits_everything_once_and_in_order(num: int, batch_size: int, world_size: int) -> None:
    index = torch.arange(num) * 3
    seen = [
        sample
        for rank in range(world_size)
        for chunk in evaluation_chunks(index, batch_size=batch_size, rank=rank, world_size=world_size)
        for sample in chunk.tolist()
    ]
    assert seen == index.tolist()
