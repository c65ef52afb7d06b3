"""Which samples count how much, and how well the channels of a layer fall into two camps (CAP, Wang et al. 2022).

The paper's full text could not be read: the weights grow with difficulty, the importance is a weighted sum of soft
masks, a regulariser polarises it; the formulas are chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COMPLEXITIES = ("focal", "ce", "uniform")
POLARISATIONS = ("variance", "bernoulli", "zhuang")
LOWEST, HIGHEST = 0.05, 0.95
"""Quantiles between which a gap is looked for."""


def complexity(logits: Tensor, labels: Tensor, *, kind: str, power: float = 1.0) -> Tensor:
    """How hard each sample is for the net, ``[batch, classes] -> [batch]``, at least 0, without gradient.

    Args:
        logits: of the current prediction; p is the probability of the label.
        labels: ``[batch]``.
        kind: "focal" = (1 - p)^power, "ce" = -ln p, "uniform" = 1.
        power: of "focal".
    """
    logs = torch.log_softmax(logits.detach().float(), dim=1).gather(1, labels[:, None])[:, 0]
    if kind == "focal":
        return (-torch.expm1(logs)).clamp_min(0.0) ** power
    return -logs if kind == "ce" else torch.ones_like(logs)


def instance_weights(complexities: Tensor) -> Tensor:
    """``[batch]`` to weights that sum to 1; equal ones if no sample has any complexity."""
    total = complexities.sum()
    if not bool(total > 0):
        return torch.full_like(complexities, 1 / len(complexities))
    return complexities / total


def polarisation(importances: Sequence[Tensor], kind: str, *, balance: float = 1.0) -> Tensor:
    """What training minimises to drive importances apart, a scalar.

    Args:
        importances: of each layer or group, ``[channels]`` in (0, 1).
        kind: "variance" = minus the mean over layers of the population variance within a layer, lowest at half zeros
            and half ones; "bernoulli" = the mean of s (1 - s) over all channels, lowest where each is 0 or 1, also if
            all are equal; "zhuang" = balance |s|_1 - |s - mean(s)|_1 over all channels (Zhuang et al. 2020).
        balance: t of "zhuang".
    """
    if kind == "variance":
        return -torch.stack([values.var(correction=0) for values in importances]).mean()
    values = torch.cat(list(importances))
    if kind == "bernoulli":
        return (values * (1 - values)).mean()
    return balance * values.abs().sum() - (values - values.mean()).abs().sum()


def widest_gap(importances: Sequence[Tensor]) -> float:
    """The middle of the widest gap between neighbours among all channels, from the 5th to the 95th percentile.

    Of equally wide gaps the lowest counts.
    """
    values = torch.cat([part.detach().double().cpu() for part in importances]).sort().values
    last = len(values) - 1
    low, high = math.floor(LOWEST * last), math.ceil(HIGHEST * last)
    inner = values[low : high + 1]
    if len(inner) < 2:
        return float(values[0])
    gaps = inner.diff()
    place = int(gaps.argmax())
    return float((inner[place] + inner[place + 1]) / 2)
