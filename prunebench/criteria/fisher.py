"""Ranking single weights of a posterior by signal-to-noise ratio, magnitude and Fisher information."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from prunebench.budget.counts import prune_floor
from prunebench.config.ranges import Among
from prunebench.criteria.snr import lowest, signal_to_noise

Ranking = Annotated[str, Among(("snr", "fisher", "magnitude", "magnitude_fisher"))]


def magnitude_then_fisher(magnitude: Tensor, fisher: Tensor, *, num_magnitude: int, num_fisher: int) -> Tensor:
    """Where the weights are that go: the smallest ones first, then of the rest those that matter least to the loss.

    Mohan et al., MNRAS 2022 (official pruning.py:221-260); of equal ones the lower index goes first.

    Args:
        magnitude: absolute means, ``[n]``.
        fisher: diagonal Fisher information of the means, ``[n]``.

    Returns:
        bool ``[n]``, true ``num_magnitude + num_fisher`` times.
    """
    small = lowest(magnitude, num_magnitude)
    return small | lowest(torch.where(small, torch.inf, fisher), num_fisher)


def weakest(
    mean: Tensor, std: Tensor, fisher: Tensor, *, ranking: Ranking, ratio: float, fisher_share: float
) -> Tensor:
    """Where the floor(ratio n) weights are that go, bool ``[n]``.

    Args:
        mean, std, fisher: of each weight, ``[n]``.
        fisher_share: of ``magnitude_fisher``: the share of them that Fisher information chooses.
    """
    num = prune_floor(len(mean), ratio)
    if ranking == "snr":
        return lowest(signal_to_noise(mean, std), num)
    share = {"fisher": 1.0, "magnitude": 0.0, "magnitude_fisher": fisher_share}[ranking]
    first = prune_floor(len(mean), ratio * (1 - share))
    return magnitude_then_fisher(mean.abs(), fisher, num_magnitude=first, num_fisher=num - first)
