"""Which sample belongs to which split, epoch position and batch: pure functions of counts and seeds."""

from __future__ import annotations

import hashlib
import itertools

import torch
from torch import Tensor

from prunebench.errors import UserError


def stream(*parts: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on all ``parts``.

    The parts are hashed, so that ``(seed 0, epoch 1)`` and ``(seed 1, epoch 0)`` share nothing, as they would
    if seed and epoch were added.
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def proportional(counts: Tensor, num: int) -> Tensor:
    """Share ``num`` among classes in proportion to ``counts`` (largest remainders, ties to the lower class).

    Args:
        counts: samples per class, ``[K]``.
        num: how many to take in all, at most ``counts.sum()``.

    Returns:
        How many to take from each class, ``[K]``, each less than 1 away from the exact share.
    """
    total = int(counts.sum())
    assert 0 <= num <= total, f"cannot take {num} of {total}"
    scaled = counts * num  # exact in integers
    quota = scaled // max(total, 1)
    remainder = scaled - quota * total
    missing = num - int(quota.sum())
    quota[remainder.argsort(descending=True, stable=True)[:missing]] += 1
    return quota


def hold_out(labels: Tensor, quota: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Take ``quota[k]`` random samples of each class ``k``.

    Args:
        labels: class of each sample, ``[N]``.
        quota: how many of each class to hold out, ``[K]``.
        seed: the draw within a class depends on (seed, class) alone.

    Returns:
        ``(rest, held)``: ascending sample indices, disjoint and together all of them.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, num in enumerate(quota.tolist()):
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=stream("split", seed, label))
        held[members[order[:num]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def stratified_split(labels: Tensor, num: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out ``num`` samples with the class proportions of ``labels``, to within one sample per class.

    Returns:
        ``(rest, held)`` as in :func:`hold_out`.
    """
    counts = torch.bincount(labels)
    return hold_out(labels, proportional(counts, num), seed=seed)


def part_of(index: Tensor, k: int, num_parts: int, *, seed: int) -> Tensor:
    """The ``k``-th (from 0) of equal random parts of ``index [N]``, in its order; their sizes differ by one at most."""
    assert 0 <= k < num_parts, f"part {k} of {num_parts}"
    if num_parts == 1:
        return index
    dealt = torch.randperm(len(index), generator=stream("part", seed, num_parts))
    return index[dealt[k::num_parts].sort().values]


def some_of(index: Tensor, num: int, *, seed: int, draw: str, what: str) -> Tensor:
    """``num`` random ones of ``index``, from ``seed`` and ``draw`` alone: the first of those of a larger ``num``.

    Args:
        what: says how many of which there are, for the message.

    Raises:
        UserError: there are fewer.
    """
    if not 1 <= num <= len(index):
        raise UserError(f"{what}, {num} were asked for")
    shuffled = torch.randperm(len(index), generator=stream("train_eval", seed, *draw.split()))
    return index[shuffled[:num]]


def epoch_order(num: int, *, seed: int, epoch: int) -> Tensor:
    """The order of ``num`` samples in one epoch, ``[num]``; a function of (seed, epoch) alone."""
    return torch.randperm(num, generator=stream("order", seed, epoch))


def training_chunks(order: Tensor, *, batch_size: int, rank: int, world_size: int) -> list[Tensor]:
    """Cut one epoch into the batches of one rank.

    Each step takes the next ``batch_size * world_size`` samples and deals them out to the ranks, so that all
    ranks make the same number of steps. Nothing is dropped or repeated: the last step is smaller, and where it
    would leave a rank fewer than two samples (batch normalisation needs two) it is joined to the step before.

    Args:
        order: sample indices of the epoch, ``[N]``.
        batch_size: samples per step and rank.
        rank: this process, from 0.
        world_size: number of processes.

    Raises:
        UserError: there are fewer samples than processes.
    """
    _check_rank(rank, world_size)
    if len(order) < world_size:
        raise UserError(f"{len(order)} training samples cannot be shared by {world_size} processes; use fewer devices")
    per_step = batch_size * world_size
    edges = [*range(0, len(order), per_step), len(order)]
    if len(edges) > 2 and edges[-1] - edges[-2] < min(2, batch_size) * world_size:
        del edges[-2]
    return [order[start + rank : end : world_size] for start, end in itertools.pairwise(edges)]


def evaluation_chunks(index: Tensor, *, batch_size: int, rank: int, world_size: int) -> list[Tensor]:
    """Cut an evaluation set into the batches of one rank, without duplicates or padding.

    A rank gets one contiguous block: the ranks' results one after the other are in the order of ``index``.

    Args:
        index: sample indices, ``[N]``.
        batch_size: largest number of samples per batch.
        rank: this process, from 0.
        world_size: number of processes.
    """
    _check_rank(rank, world_size)
    block = index[rank * len(index) // world_size : (rank + 1) * len(index) // world_size]
    return list(block.split(batch_size)) if len(block) else []


def _check_rank(rank: int, world_size: int) -> None:
    assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
