"""Temperature scaling: how much of a miscalibration one number can undo (Guo et al., ICML 2017, section 4.2).

The temperature T is fitted on the validation split and applied to the test set: p^(1/T), normalised. For one softmax
that divides the logits by T; for the mean of several predictions it acts on the mean, which is what is scored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from prunebench.measure import calibration

LOWEST, HIGHEST = 0.02, 50.0
"""Temperatures that are looked at: 50 times sharper to 50 times softer."""


def scaled(probs: Tensor, temperature: float) -> Tensor:
    """Probabilities ``[N, classes]`` at ``temperature`` > 0, float64; 1 changes nothing.

    A probability below the smallest normal float32 counts as that one, as in the NLL.
    """
    logs = probs.detach().cpu().double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return torch.softmax(logs / temperature, dim=1)


def fitted(probs: Tensor, labels: Tensor) -> float | None:
    """The temperature with the lowest NLL on ``probs`` [N, classes] and ``labels`` [N]; None where none is lowest.

    The NLL is convex in 1 / T, so a bounded search of one dimension finds it. Where it still falls at the end of
    :data:`LOWEST` to :data:`HIGHEST` (each prediction is right, or none better than chance) there is no such T.
    """
    probs, labels = calibration.check(probs, labels)
    bounds = (math.log(LOWEST), math.log(HIGHEST))

    def loss(log: float) -> float:
        return calibration.nll(scaled(probs, math.exp(log)), labels)

    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < min(map(loss, bounds)) else None


def summarise(validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """``metrics.<stage>.temperature`` of ``result.json``.

    Args:
        validation, test: probabilities ``[N, classes]`` and labels ``[N]``.

    Returns:
        ``value`` (T) and, on the test set at T, ``nll`` (nats), ``ece`` and ``brier``, all null where the validation
        split has no best T; ``num_samples`` of the validation split.
    """
    value = fitted(*validation)
    result: dict[str, Any] = {
        "num_samples": len(validation[1]),
        "value": value,
        "nll": None,
        "ece": None,
        "brier": None,
    }
    if value is not None:
        probs, labels = scaled(test[0], value), test[1]
        for score in (calibration.nll, calibration.ece, calibration.brier):
            result[score.__name__] = score(probs, labels)
    return result
