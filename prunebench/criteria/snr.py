"""Signal-to-noise ratio of random weights: how many standard deviations their mean is away from 0."""

from __future__ import annotations

from collections.abc import Mapping

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


def live_weights(scores: Mapping[str, Tensor], num: Mapping[str, int] | int) -> dict[str, Tensor]:
    """Masks of the weights that stay, in the shapes of ``scores``, True where one stays.

    Args:
        scores: layer -> score of each of its weights.
        num: how many go: of all layers together, ranked in one list (a number), or of each (layer -> number).
    """
    if isinstance(num, int):
        dead = lowest(torch.cat([score.flatten() for score in scores.values()]), num)
        parts = dead.split([score.numel() for score in scores.values()])
    else:
        parts = tuple(lowest(score.flatten(), num[name]) for name, score in scores.items())
    return {name: ~part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def decibels(ratio: Tensor) -> Tensor:
    """10 log10 of a signal-to-noise ratio, which ranks as the ratio does; minus infinity for a mean of 0."""
    return 10 * ratio.log10()
