"""Signal-to-noise ratio of random weights: how many standard deviations their mean is away from 0."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_STD = 1e-12  # a constant weight has a very large ratio, not an infinite one


def signal_to_noise(mean: Tensor, std: Tensor) -> Tensor:
    """``|mean| / std`` of each weight; shapes are equal and stay."""
    return mean.abs() / std.clamp_min(SMALLEST_STD)


def filter_signal_to_noise(mean: Tensor, std: Tensor) -> Tensor:
    """``||mean_f||_2 / sqrt(sum of std^2 in f)`` of each filter f: ``[out, ...]`` -> ``[out]``."""
    signal: Tensor = torch.linalg.vector_norm(mean.flatten(1), dim=1)
    noise: Tensor = torch.linalg.vector_norm(std.flatten(1), dim=1)
    return signal / noise.clamp_min(SMALLEST_STD)


def lowest(scores: Tensor, num: int) -> Tensor:
    """Where the ``num`` lowest of ``scores [n]`` are, bool ``[n]``; of equal ones the lower index comes first."""
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(stable=True)[:num]] = True
    return mask
