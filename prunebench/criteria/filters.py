"""Scores from the filters themselves: norms, distances, chance.

``weight [out, in, k, k]`` or ``[out, in]`` -> ``[out]``. All are computed in float64: channels are ranked by them,
and a rounding error must not decide a rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _filters(weight: Tensor) -> Tensor:
    return weight.detach().double().flatten(start_dim=1)


def l1_norm(weight: Tensor, *, live_inputs: Sequence[int] | None = None) -> Tensor:
    """Sum of absolute weights of each filter (Li et al. 2017, section 3.1).

    Args:
        weight: ``[out, in, ...]``.
        live_inputs: input channels that count; None counts all of them ("independent"). Passing those that the
            layers before have kept is the paper's "greedy" strategy (section 3.3).
    """
    if live_inputs is not None:
        weight = weight[:, list(live_inputs)]
    return _filters(weight).abs().sum(dim=1)


def l2_norm(weight: Tensor) -> Tensor:
    """Euclidean norm of each filter, ``[out, in, ...] -> [out]`` (He et al. 2018, SFP, eq. 2 with p = 2)."""
    return _filters(weight).square().sum(dim=1).sqrt()


def geometric_median(weight: Tensor) -> Tensor:
    """Sum of the (unsquared) distances to all filters of the layer, ``[out, in, ...] -> [out]`` (FPGM, eq. 7).

    The filter with the smallest sum is the one nearest to the geometric median, the most replaceable one.
    """
    filters = _filters(weight)
    # the exact mode: the matrix-product shortcut gives coinciding filters a distance of 1e-8 and breaks ties
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


def mixed(weight: Tensor, *, num_by_norm: int) -> Tensor:
    """FPGM-mix as one ranking: the ``num_by_norm`` smallest norms first, the others by distance among themselves.

    The distances to the filters already chosen by norm are not counted (official pruning_cifar10.py:482-512). The
    chosen ones get negative scores in the order of their norms, so the order of removal is one sort of the result.

    Args:
        weight: ``[out, in, ...]``.
        num_by_norm: how many go by norm, floor(out * norm_ratio).
    """
    norms = l2_norm(weight)
    order = torch.argsort(norms, stable=True)
    by_norm, others = order[:num_by_norm], order[num_by_norm:].sort().values
    scores = torch.empty_like(norms)
    scores[by_norm] = torch.arange(-num_by_norm, 0, dtype=norms.dtype, device=norms.device)
    scores[others] = geometric_median(weight[others])
    return scores


def random(num_channels: int, generator: torch.Generator) -> Tensor:
    """Scores drawn uniformly from [0, 1), ``-> [num_channels]``: the control that a criterion must beat."""
    return torch.rand(num_channels, dtype=torch.float64, generator=generator)
