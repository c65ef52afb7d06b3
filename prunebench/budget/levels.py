"""Which single weights survive a level of iterative magnitude pruning: masks over live weights, layers in one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.budget.counts import prune_floor
from prunebench.errors import UserError

RULES = ("floor", "open_lth")


@dataclass(frozen=True, kw_only=True)
class Level:
    """What one level takes of the weights that are left.

    Attributes:
        ratios: share of each layer; with ``scope="global"`` they are all the same.
        scope: "layer", or "global" = one ranking over all.
        rule: "floor" = floor(p n) go; "open_lth" = see :func:`strictly_above`, with ceil(p n), n with skipped weights.
        num_skipped: weights of layers that are left alone.
    """

    ratios: Sequence[float]
    scope: str
    rule: str = "floor"
    num_skipped: int = 0

    def survivors(self, weights: Sequence[Tensor], live: Tensor, *, levels: int = 1) -> Tensor:
        """``live`` without what ``levels`` levels at once take, bool ``[n]``.

        Args:
            weights: trained ones, of any shape. ``live``: bool, of all layers in one row, ``[n]``.
        """
        magnitudes = [weight.detach().abs().flatten().to(live.device) for weight in weights]
        shares = [share_after(ratio, levels) for ratio in self.ratios]
        if self.scope == "layer":
            masks = live.split([len(part) for part in magnitudes])
            found = zip(magnitudes, masks, shares, strict=True)
            return torch.cat([without_smallest(m, on, prune_floor(int(on.sum()), share)) for m, on, share in found])
        row, num_live = torch.cat(magnitudes), int(live.sum())
        if self.rule == "open_lth":
            return strictly_above(row, live, ceil_count(num_live + self.num_skipped, shares[0]))
        return without_smallest(row, live, prune_floor(num_live, shares[0]))

    def share_gone(self, sizes: Sequence[int], *, levels: int) -> float:
        """The share of all weights that is gone after so many levels, but for whole numbers; ``sizes``: of layers."""
        gone = sum(size * share_after(ratio, levels) for size, ratio in zip(sizes, self.ratios, strict=True))
        return gone / sum(sizes)


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
