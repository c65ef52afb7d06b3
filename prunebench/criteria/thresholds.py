"""Thresholds for single weights (Han et al. 2015, and the global version of Liu et al. 2019, "Rethinking")."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, NonNegativeFloat
from prunebench.errors import UserError


@validated
def remaining_threshold(weights: Sequence[Tensor], prune_ratio: FractionBelowOne) -> Tensor:
    """The threshold that takes ``prune_ratio`` of the weights of all layers that are not zero yet, a scalar.

    Index T - T_nonzero + int(T_nonzero * prune_ratio) of the T sorted absolute weights. A weight stays iff its absolute
    value is strictly above, so one more goes than the ratio says, and more where some are equal (Rethinking,
    cifar/lottery-ticket/weight-level/cifar_prune_iterative.py:186-215; cifar/weight-level/cifar_prune.py:184-211).
    """
    ranked = torch.cat([weight.detach().abs().flatten() for weight in weights]).sort().values
    num_live = int(torch.count_nonzero(ranked))
    if num_live == 0:
        raise UserError("every weight is zero already; nothing is left to prune")
    # 10 * 0.3 may come out as 2.9999999999999996: a count is an integer up to float noise
    return ranked[len(ranked) - num_live + math.floor(num_live * prune_ratio + 1e-9)]


def largest(weight: Tensor, num_zero: int) -> Tensor:
    """False for the ``num_zero`` smallest absolute values of ``weight``, bool of its shape; of equal ones the first."""
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:num_zero]] = False
    return mask.view(weight.shape)


@validated
def layer_std_threshold(weight: Tensor, quality: NonNegativeFloat) -> Tensor:
    """``quality`` times the standard deviation of the layer's live weights, a scalar (Han et al. 2015, section 3)."""
    live = weight.detach()[weight.detach() != 0]
    if live.numel() < 2:
        return torch.zeros((), dtype=weight.dtype, device=weight.device)
    return quality * live.std()


def redraw_std(mask: Tensor) -> float:
    """Standard deviation for drawing the live weights of a sparse convolution anew: sqrt(2 / n), n = nnz / C_in.

    Args:
        mask: bool ``[out, in, k, k]``, True where a weight is live.

    With every weight live this is the usual fan-out initialisation, n = k^2 * C_out (Rethinking,
    cifar/weight-level/cifar_E.py:204-211).
    """
    return math.sqrt(2.0 * mask.shape[1] / max(int(mask.sum()), 1))
