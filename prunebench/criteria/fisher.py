"""Ranking single weights of a posterior by signal-to-noise ratio, magnitude and Fisher information.

Everything is ranked in float64 on the CPU, so that each machine removes the same weights.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from prunebench.budget.counts import prune_floor
from prunebench.config.ranges import Among
from prunebench.criteria.snr import lowest, signal_to_noise

RANKINGS = ("snr", "fisher", "magnitude", "magnitude_fisher", "fisher_mu2", "expected")
Ranking = Annotated[str, Among(RANKINGS)]


def needs_fisher(ranking: str) -> bool:
    """Whether ``ranking`` looks at Fisher information."""
    return ranking not in ("snr", "magnitude")


def importance(mean: Tensor, std: Tensor, fisher: Tensor, *, ranking: Ranking) -> Tensor:
    """Score of each weight, float64 ``[n]`` on the CPU; low ones go first. Of one ranking, not of ``magnitude_fisher``.

    ``snr`` |mean| / std, ``magnitude`` |mean|, ``fisher`` F, ``fisher_mu2`` F mean^2 (twice the rise of the loss, to
    second order, where the weight is set to 0), ``expected`` F (mean^2 + std^2) (the same for a drawn weight).

    Args:
        mean, std, fisher: of each weight, ``[n]``; ``fisher`` is looked at by those rankings alone that need it.
    """
    mean, std, fisher = (values.detach().cpu().double() for values in (mean, std, fisher))
    match ranking:
        case "snr":
            return signal_to_noise(mean, std)
        case "magnitude":
            return mean.abs()
        case "fisher":
            return fisher
        case "fisher_mu2":
            return fisher * mean.square()
        case "expected":
            return fisher * (mean.square() + std.square())
    raise AssertionError(f"{ranking} is no single score")


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
    mean: Tensor,
    std: Tensor,
    fisher: Tensor,
    *,
    ranking: Ranking,
    ratio: float,
    fisher_share: float,
    unit: Tensor | None = None,
) -> Tensor:
    """Where the floor(ratio n) weights are that go, bool ``[n]``; of equal ones the lower index goes first.

    Args:
        mean, std, fisher: of each weight, ``[n]``.
        ratio: in [0, 1].
        fisher_share: of ``magnitude_fisher``: the share r of them that Fisher information chooses; 0 is ``magnitude``,
            1 is ``fisher``.
        unit: what a magnitude is measured in, ``[n]``, for example the deviation of the means of its layer; None = 1.
    """
    num = prune_floor(len(mean), ratio)
    size = mean if unit is None else mean / unit
    if ranking != "magnitude_fisher":
        dead = lowest(importance(size if ranking == "magnitude" else mean, std, fisher, ranking=ranking), num)
        return dead.to(mean.device)
    first = prune_floor(len(mean), ratio * (1 - fisher_share))
    small, matters = (importance(size, std, fisher, ranking=kind) for kind in ("magnitude", "fisher"))
    return magnitude_then_fisher(small, matters, num_magnitude=first, num_fisher=num - first).to(mean.device)
