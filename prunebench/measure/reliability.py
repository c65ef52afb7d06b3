"""How far the predictions of several nets can be relied on, and what pruning has done to outputs and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.measure import statistics
from prunebench.measure.uncertainty import entropy, expected_entropy, mutual_information

BAND = (0.05, 0.95)


def summarise(samples: Tensor, labels: Tensor) -> dict[str, Any]:
    """What several predictions of each input say of their own errors.

    Args:
        samples: probabilities ``[S, N, classes]``.
        labels: ``[N]``.

    Returns:
        ``error``; ``error_estimate`` = mean of 1 - max of the mean prediction, which needs no labels;
        ``error_estimate_gap``, the absolute difference; ``correct`` and ``wrong``: mean ``entropy``,
        ``expected_entropy`` and ``mutual_information`` in nats over those inputs, None if there are none;
        ``single_error``: ``mean``, ``std`` (None for one) and ``band_90`` of the errors of the single predictions.
    """
    samples = samples.double()
    mean = samples.mean(0)
    wrong = mean.argmax(1) != labels
    total, expected = entropy(mean), expected_entropy(samples)
    doubts = {"entropy": total, "expected_entropy": expected, "mutual_information": mutual_information(total, expected)}
    error, estimate = float(wrong.double().mean()), float((1 - mean.max(1).values).mean())
    errors = (samples.argmax(2) != labels).double().mean(1)
    band = torch.quantile(errors, torch.tensor(BAND, dtype=errors.dtype, device=errors.device))
    return {
        "error": error,
        "error_estimate": estimate,
        "error_estimate_gap": abs(estimate - error),
        "correct": _means(doubts, ~wrong),
        "wrong": _means(doubts, wrong),
        "single_error": {
            "mean": float(errors.mean()),
            "std": float(errors.std()) if len(errors) > 1 else None,
            "band_90": band.tolist(),
        },
    }


def error_limit(probs: Tensor, labels: Tensor) -> dict[str, Any]:
    """Clopper-Pearson upper 95 % limit (one-sided) of the error, from held-out inputs.

    Args:
        probs: mean prediction ``[N, classes]``.
        labels: ``[N]``.
    """
    number, errors = len(labels), int((probs.argmax(1) != labels).sum())
    # the upper end of a two-sided 90 % interval
    limit = statistics.clopper_pearson(errors, number, level=0.9)
    return {"num_samples": number, "num_errors": errors, "upper_95": limit[1]}


def functional_loss(before: Tensor, after: Tensor) -> dict[str, float]:
    """What has changed in predictions ``[N, classes]``: mean KL(before || after) in nats, share of equal classes."""
    before, after = before.double(), after.double()
    tiny = torch.finfo(torch.float32).tiny
    divergence = torch.special.xlogy(before, before) - torch.special.xlogy(before, after.clamp_min(tiny))
    agreement = (before.argmax(1) == after.argmax(1)).double().mean()
    return {"kl_from_dense": float(divergence.sum(1).mean()), "agreement": float(agreement)}


def wasserstein(one: Tensor, other: Tensor) -> float:
    """Wasserstein-1 distance of two sets of numbers, of any shape and size."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(*(part.detach().double().cpu().flatten().numpy() for part in (one, other))))


def distribution_loss(left: Tensor, whole: Tensor, number: int) -> dict[str, float]:
    """How far the weights that are left are from a layer's weights before, in standard deviations of these.

    Args:
        left: all that are left, of one net or of several.
        whole: of the layer before.
        number: of weights that magnitude pruning would leave.

    Returns:
        ``wasserstein``, and ``wasserstein_magnitude``: the same of the ``number`` largest of ``whole``.
    """
    flat = whole.detach().flatten()
    spread = float(flat.double().std(correction=0)) or 1.0
    largest = flat[flat.abs().topk(number).indices]
    return {
        "wasserstein": wasserstein(left, flat) / spread,
        "wasserstein_magnitude": wasserstein(largest, flat) / spread,
    }


def _means(doubts: Mapping[str, Tensor], chosen: Tensor) -> dict[str, float] | None:
    return {name: float(value[chosen].mean()) for name, value in doubts.items()} if bool(chosen.any()) else None
