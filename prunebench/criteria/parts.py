"""Which columns of a sum can go: each channel adds one part to an output, and the parts that stay must rebuild it.

Luo, Wu, Lin: ThiNet, ICCV 2017 and TPAMI 2018; line numbers are those of the official code, Roll920/ThiNet_Code.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def remove_greedily(parts: Tensor, number: int, *, gone: Collection[int] = ()) -> list[int]:
    """The columns whose sum over rows stays smallest, one after the other (section 3.2.2, algorithm 1).

    Column t goes if |sum of the gone columns + t| is the smallest; among equal ones the lowest index
    (compress_model.py:147-172).

    Args:
        parts: what each channel adds to each instance, ``[instances, channels]``.
        number: columns that go in all, at least those that are ``gone`` already.

    Returns:
        Indices in the order in which they go.
    """
    gram = _gram(parts)
    order = list(gone)
    while len(order) < number:
        # |s + x|^2 without |s|^2, which is the same for all
        growth = np.diag(gram) + 2 * gram[:, order].sum(axis=1)
        growth[order] = np.inf
        order.append(int(growth.argmin()))
    return order


def pursue(parts: Tensor, whole: Tensor, number: int) -> list[int]:
    """Orthogonal matching pursuit: the column that explains most of the residual comes next (TPAMI version).

    After each one all coefficients are refitted by least squares (ThiNet_TPAMI/ResNet50/compress_model.py:119-156).

    Args:
        parts: ``[instances, channels]``; ``whole``: what they add up to, ``[instances]``.
        number: columns that stay.

    Returns:
        Indices in the order in which they are found.
    """
    gram, cross = _gram(parts), (parts.double().T @ whole.double()).cpu().numpy()
    squares = np.diag(gram)
    chosen: list[int] = []
    left = cross
    for _ in range(number):
        gain = np.divide(left**2, squares, out=np.zeros_like(left), where=squares > 0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        fit = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], cross[chosen], rcond=None)[0]
        left = cross - gram[:, chosen] @ fit
    return chosen


def scales(parts: Tensor, whole: Tensor) -> Tensor:
    """One factor a column, so that their weighted sum is nearest to ``whole``: ``[channels]`` (eq. 7).

    By least squares of smallest norm, which needs no inverse: channels that are always 0 get the factor 0.
    """
    # the solver that takes any rank runs on the CPU
    found: Tensor = torch.linalg.lstsq(parts.double().cpu(), whole.double().cpu()[:, None], driver="gelsd").solution
    return found[:, 0]


def _gram(parts: Tensor) -> NDArray[np.float64]:
    exact = parts.double()
    found: NDArray[np.float64] = (exact.T @ exact).cpu().numpy()
    return found
