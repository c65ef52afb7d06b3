"""How far a channel's removal shifts what its readers compute, and their norms' statistics after it (FSM).

Duan et al. 2022, Network Pruning via Feature Shift Minimization; official code lscgx/FSM, ``main.py``. The removal of
channel i moves the mean of output j of a layer that reads it by K[j, i] * E_i, with K the sum of the kernel's entries
(signed: opposite ones cancel) and E_i the channel's expected value; exact but for the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "max")
TINY = 1e-5
"""What the official code puts in the place of a negative scale (main.py:737-761)."""


def kernel_sums(weight: Tensor) -> Tensor:
    """K, ``[out, in, ...] -> [out, in]`` in float64."""
    weight = weight.detach()
    return weight.flatten(2).sum(2, dtype=torch.float64) if weight.ndim > 2 else weight.double()


def feature_shift(
    sums: Tensor, expected: Tensor, channels: Tensor, num_channels: int, *, reduction: str = "mean"
) -> Tensor:
    """Shift of a reader by each channel, ``[num_channels]`` (eq. 8; main.py:772-788).

    Args:
        sums: K of the reader, ``[out, in]``.
        expected: E of its input features, ``[in]``.
        channels: the channel that each input feature is, -1 = another layer's, ``[in]``.
        num_channels: of the layer that is scored.
        reduction: how the absolute shifts of the outputs become one number: ``mean`` (official), ``sum`` or ``max``.
    """
    own = channels >= 0
    shifts = sums.new_zeros(len(sums), num_channels)
    shifts.index_add_(1, channels[own].to(sums.device), (sums * expected)[:, own])
    sizes = shifts.abs()
    if reduction == "max":
        return sizes.amax(0)
    return sizes.sum(0) if reduction == "sum" else sizes.mean(0)


class Statistics(NamedTuple):
    """Running mean and variance of a norm, ``[channels]``."""

    mean: Tensor
    var: Tensor


def adjusted(
    before: Statistics,
    sums: Tensor,
    expected: Tensor,
    kept: Sequence[bool] | Tensor,
    *,
    removed: float,
    threshold: float = 0.0,
    bias: Tensor | None = None,
) -> Statistics:
    """Statistics of a reader's norm after the removal: the distribution optimisation of section 3.3 (main.py:280-294).

    rho = e_all / mean says how far the estimate is from the recorded mean. Where rho > threshold the mean becomes
    e_keep / rho and the variance is multiplied by the share of channels that stays; elsewhere both stay as they are.

    Args:
        before: of the norm behind the reader.
        sums, expected: K of the reader and E of its inputs, before anything was removed, ``[out, in]``, ``[in]``.
        kept: which input features stay, ``[in]``.
        removed: share of the pruned layer's channels that goes.
        threshold: tau, >= 0.
        bias: of the reader, part of the recorded mean; None = without. The official code forgets it.
    """
    mask = torch.as_tensor(kept, device=sums.device)
    shift = sums.new_zeros(len(sums)) if bias is None else bias.detach().double()
    recorded = before.mean.double() - shift
    e_all, e_keep = sums @ expected, (sums * mask) @ expected
    rho = torch.where(recorded == 0, 0.0, e_all / torch.where(recorded == 0, 1.0, recorded))
    changed = rho > threshold  # so that neither is 0
    mean = torch.where(changed, recorded * e_keep / torch.where(changed, e_all, 1.0), recorded) + shift
    var = torch.where(changed, before.var.double() * (1.0 - removed), before.var.double())
    return Statistics(mean.to(before.mean), var.to(before.var))
