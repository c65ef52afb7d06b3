"""Which single weights survive a level of iterative magnitude pruning: masks over live weights, layers in one row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunebench.errors import UserError


def without_smallest(magnitudes: Tensor, live: Tensor, number: int) -> Tensor:
    """``live`` without the ``number`` smallest of its magnitudes, bool ``[n]``; of equal ones the first go.

    Args:
        magnitudes: ``[n]``, at least 0. ``live``: bool ``[n]``.
    """
    ranked = torch.where(live, magnitudes, -1.0).argsort(stable=True)  # the dead come first
    kept = live.clone()
    kept[ranked[: len(live) - int(live.sum()) + number]] = False
    return kept


def strictly_above(magnitudes: Tensor, live: Tensor, number: int) -> Tensor:
    """``live`` where the magnitude is above the one at rank ``number`` (from 0) of the live ones, bool ``[n]``.

    So one more than ``number`` goes, and more where some are equal (open_lth, pruning/sparse_global.py).

    Raises:
        UserError: there are no more than ``number`` live weights.
    """
    alive = magnitudes[live]
    if number >= len(alive):
        raise UserError(f"{number:,} weights are to go, and only {len(alive):,} are left; lower method.prune_ratio")
    return live & (magnitudes > alive.sort().values[number])


def share_after(prune_ratio: float, levels: int) -> float:
    """The share that is gone after so many levels, each of which takes ``prune_ratio`` of what is left."""
    return prune_ratio if levels == 1 else 1.0 - (1.0 - prune_ratio) ** levels


def ceil_count(number: int, prune_ratio: float) -> int:
    """ceil(number * prune_ratio), up to float noise."""
    return math.ceil(number * prune_ratio - 1e-9)


def shuffled(live: Tensor, draws: torch.Generator) -> Tensor:
    """A mask of one layer with as many live weights as ``live``, bool ``[n]``, at random places."""
    return live[torch.randperm(len(live), generator=draws).to(live.device)]
