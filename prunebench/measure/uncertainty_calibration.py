"""Whether doubt is as large as the error: uncertainty calibration error, and how far two classes overlap.

Mohan et al., MNRAS 2022, sec. 4.3 to 4.5 (official uncertainty.py:9-113); UCE after Laves et al. 2019. All
uncertainties here are divided by ln C, so that they lie in [0, 1], and all results are fractions (the paper prints
percent).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from prunebench.measure.uncertainty import entropy, expected_entropy, mutual_information

NUM_BINS = 8
BANDWIDTH, NUM_POINTS = 0.1, 100
"""Of the kernel density behind the overlap index, and where on [0, 1] it is evaluated."""


def uncertainties(samples: Tensor) -> dict[str, Tensor]:
    """Doubt of each input in [0, 1] from S predictions, ``[S, N, classes]`` to ``[N]`` each.

    ``entropy`` of the mean prediction, ``mutual_information``, ``expected_entropy`` (mean entropy of the single
    predictions) and ``single_pass_entropy`` (of the first prediction alone, as the official code does).
    """
    whole = math.log(samples.shape[-1])
    total, expected = entropy(samples.double().mean(0)), expected_entropy(samples)
    found = {
        "entropy": total,
        "mutual_information": mutual_information(total, expected),
        "expected_entropy": expected,
        "single_pass_entropy": entropy(samples[0]),
    }
    return {name: (value / whole).clamp(0.0, 1.0) for name, value in found.items()}


def uce(error: Tensor, uncertainty: Tensor, *, num_classes: int, num_bins: int = NUM_BINS) -> float:
    """Uncertainty calibration error: mean over inputs of |scaled error - uncertainty| of their bin.

    The error is scaled by C / (C - 1), so that guessing is 1 as an uncertainty of 1 says. Bins are ``(low, high]`` of
    equal width; an uncertainty of exactly 0 is in none of them.

    Args:
        error: share of wrong predictions of each input, ``[N]``.
        uncertainty: in [0, 1], ``[N]``.
    """
    scale = num_classes / (num_classes - 1)
    bins = (uncertainty.double() * num_bins).ceil().long() - 1  # -1: exactly 0
    total = 0.0
    for number in range(num_bins):
        inside = bins == number
        if inside.any():
            gap = scale * error[inside].double().mean() - uncertainty[inside].double().mean()
            total += float(inside.sum()) * abs(float(gap))
    return total / len(error)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Overlap index of two samples on [0, 1], for each input: 1 = the same distribution, 0 = apart.

    Gaussian kernel densities on 100 points of [0, 1]; the mean of the smaller one.

    Args:
        first, second: ``[S, N]``, say the probabilities of both classes.
    """
    points = torch.linspace(0, 1, NUM_POINTS, dtype=torch.float64)
    smaller = [
        torch.minimum(_density(one, points), _density(other, points)).mean()
        for one, other in zip(first.double().T, second.double().T, strict=True)
    ]
    return torch.stack(smaller)


def _density(sample: Tensor, points: Tensor) -> Tensor:
    distance = (points[:, None] - sample[None, :]) / BANDWIDTH
    return torch.exp(-0.5 * distance.square()).mean(1) / (BANDWIDTH * math.sqrt(2 * math.pi))


def summarise(samples: Tensor, labels: Tensor) -> dict[str, Any]:
    """Errors and uncertainties of S predictions of a whole set, as plain data.

    Args:
        samples: probabilities ``[S, N, classes]``. ``labels``: int64 ``[N]``.

    Returns:
        ``sample_error`` and ``sample_error_sd``: mean and standard deviation over the S predictions of the test error
        of each (not of their mean). ``uncertainties``: mean of each. ``uce``: for each uncertainty; ``class_wise_uce``:
        the same on the inputs of each class, and the ``mean`` over classes. ``overlap``: mean index, two classes only.
    """
    num_classes = samples.shape[-1]
    wrong = (samples.argmax(-1) != labels).double()  # [S, N]
    per_pass, per_input = wrong.mean(1), wrong.mean(0)
    doubts = uncertainties(samples)
    by_class: dict[str, dict[str, float]] = {}
    for name, doubt in doubts.items():
        groups = [labels == label for label in range(num_classes) if bool((labels == label).any())]
        found = [uce(per_input[group], doubt[group], num_classes=num_classes) for group in groups]
        names = [str(int(labels[group][0])) for group in groups]
        by_class[name] = {**dict(zip(names, found, strict=True)), "mean": sum(found) / len(found)}
    both = overlap(samples[..., 0], samples[..., 1]) if num_classes == 2 else None
    return {
        "sample_error": float(per_pass.mean()),
        "sample_error_sd": float(per_pass.std(correction=0)),
        "uncertainties": {name: float(doubt.mean()) for name, doubt in doubts.items()},
        "uce": {name: uce(per_input, doubt, num_classes=num_classes) for name, doubt in doubts.items()},
        "class_wise_uce": by_class,
        "overlap": None if both is None else float(both.mean()),
    }
