"""Filter proxies of DCFF: which filters of a layer differ most, and how all of them are averaged into a few.

Lin, Chen, Chao, Ji: Training compact CNNs for image classification using dynamic-coded filter fusion, TNNLS 2023.
Everything is computed in float64 unless it says otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OFFICIAL_EPS = 1e-7
"""Added to the second proxy of each pair by the official code (main_cifar.py:283-299)."""


def inverse_temperature(epoch: int, num_epochs: int, *, k: float, start: float, end: float) -> float:
    """What distances are multiplied with: ``start`` at epoch 0, ``end`` at ``num_epochs``, rising as a logistic curve.

    The paper's ``A / (1 + exp(-k e)) + start - A / 2`` with its A, written with tanh, which neither overflows nor
    cancels: ``start + (end - start) tanh(k e / 2) / tanh(k E / 2)``.
    """
    return start + (end - start) * math.tanh(k * epoch / 2) / math.tanh(k * num_epochs / 2)


def distances(weight: Tensor) -> Tensor:
    """Euclidean distances between filters, ``[c, in, ...] -> [c, c]``; no bias has a part."""
    filters = weight.detach().double().flatten(1)
    # the exact mode: a distance of 1e-8 on the diagonal, as of the matrix product, is 1e-4 after multiplication
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")


def log_proxies(distance: Tensor, temperature: float) -> Tensor:
    """Logarithms of the proxies: row j is ``log_softmax_k(-T D_jk)``, largest on the diagonal.

    Args:
        distance: ``[c, c]``.
        temperature: T, an inverse one: the larger, the nearer each proxy is to its own filter alone.
    """
    return torch.log_softmax(-temperature * distance, dim=1)


def importance(logs: Tensor) -> Tensor:
    """``I_j = sum_k KL(P_j || P_k)`` in log space, ``[c, c] -> [c]``, with O(c^2) memory and never NaN.

    As T grows, ``I_j / T`` tends to the sum of the distances from filter j to all others.
    """
    proxies = logs.exp()
    return len(logs) * (proxies * logs).sum(1) - proxies @ logs.sum(0)


def official_importance(distance: Tensor, temperature: float) -> Tensor:
    """The same as the official code computes it, ``[c, c] -> [c]``: ``P log(P / (P + 1e-7))`` in float32, mean over i.

    Where a proxy underflows, ``0 log 0`` is NaN: a layer with such an entry has no score, and the code keeps the scores
    of an earlier epoch. One pair of filters at a distance of 0.0105 is enough at T = 1e4.
    """
    proxies = torch.softmax(-temperature * distance.float(), dim=1)
    num = len(proxies)
    own = (proxies * proxies.log()).sum(1)
    return (num * own - proxies @ (proxies + OFFICIAL_EPS).log().sum(0)) / num


def strongest(scores: Tensor, number: int) -> Tensor:
    """Indices of the ``number`` largest scores, largest first; among equal ones the lowest index."""
    return torch.sort(scores, descending=True, stable=True).indices[:number]


def stable_slots(before: Tensor, chosen: Tensor) -> Tensor:
    """Filters in slots: who stays chosen stays in place, newcomers fill the vacated slots in ascending order.

    Norm parameters and the next layer's inputs belong to slots, not to filters.

    Args:
        before: the filter of each slot, ``[m]``; -1 = none.
        chosen: the filters of now, ``[m]``, in any order.

    Returns:
        ``[m]``.
    """
    chosen = chosen.to(before)
    stays = torch.isin(before, chosen)
    newcomers = chosen[~torch.isin(chosen, before)].sort().values
    slots = before.clone()
    slots[~stays] = newcomers
    return slots
