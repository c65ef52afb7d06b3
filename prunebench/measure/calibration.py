"""Accuracy, proper scores and calibration of predicted probabilities.

All functions are pure: ``probs`` [N, classes] (rows sum to 1) and ``labels`` [N] (class indices) give Python
numbers. They compute in float64 over the whole set at once, so no partition into batches can change a value.
Accuracies and calibration errors are fractions, not percent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.config.arguments import fit
from prunebench.config.ranges import PositiveInt
from prunebench.errors import UserError

NUM_BINS = 15  # Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 5
SUM_TOLERANCE = 1e-2  # a softmax in half precision is off by less; logits are off by more


def check(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 probabilities [N, classes] and int64 labels [N] on the CPU, validated.

    Raises:
        UserError: shapes do not fit, N is 0, a label is no class, or the rows are no probabilities.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or not len(labels):
        raise UserError(
            "calibration: needs probabilities [N, classes] and labels [N] with N >= 1, got shapes "
            f"{list(probs.shape)} and {list(labels.shape)}"
        )
    probs, labels = probs.detach().cpu().double(), labels.detach().cpu().long()
    if labels.min() < 0 or labels.max() >= probs.shape[1]:
        raise UserError(
            f"calibration: labels must be in [0, {probs.shape[1]}), got {int(labels.min())} to {int(labels.max())}"
        )
    # written so that NaN fails as well
    if not (probs.min() >= 0 and (probs.sum(1) - 1).abs().max() <= SUM_TOLERANCE):
        raise UserError("calibration: each row of probabilities must be >= 0 and sum to 1; were logits passed?")
    return probs, labels


def num_correct(probs: Tensor, labels: Tensor) -> int:
    """Samples whose most probable class (the first one of a tie) is the label."""
    probs, labels = check(probs, labels)
    return int((probs.argmax(1) == labels).sum())


def top_k_accuracy(probs: Tensor, labels: Tensor, k: int) -> float:
    """Fraction of samples whose label is among the ``k`` most probable classes; ties go to the lower class."""
    probs, labels = check(probs, labels)
    if not 1 <= k <= probs.shape[1]:
        raise UserError(f"top_k_accuracy: k must be in [1, {probs.shape[1]}], got {k}")
    own = probs.gather(1, labels[:, None])  # [N, 1]
    earlier = torch.arange(probs.shape[1]) < labels[:, None]
    rank = ((probs > own) | ((probs == own) & earlier)).sum(1)
    return float((rank < k).double().mean())


def nll(probs: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels in nats.

    A probability below the smallest normal float32 (1.2e-38) counts as that one: the softmax was computed in
    float32 and has underflowed. So one sample costs at most 87.3 nats.
    """
    probs, labels = check(probs, labels)
    own = probs.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
    return float(-own.log().mean())


def brier(probs: Tensor, labels: Tensor) -> float:
    """Mean over samples of the squared distance to the one-hot label, summed over ALL classes: in [0, 2]."""
    probs, labels = check(probs, labels)
    own = probs.gather(1, labels[:, None])[:, 0]
    return float((probs.square().sum(1) - 2 * own + 1).mean())  # no [N, classes] one-hot tensor is made


def ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error: mean over samples of abs(accuracy - confidence) of their bin, a fraction.

    The bins of the confidence (the largest probability) have equal width and are ``[low, high)``; the last
    one is closed, so a confidence of exactly 1 belongs to it.
    """
    # not torchmetrics' (1.9): it gives a confidence of 1 a bin of its own beyond the last one, and sorts in float32
    confidence, correct = _confidence(probs, labels)
    return _gap(confidence, correct, _equal_width(confidence, num_bins), num_bins)


def adaptive_ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """ECE with bins of equal mass: the samples in the order of confidence, cut into ``num_bins`` equal parts.

    Samples of equal confidence share their mean correctness, so the order of the samples cannot matter.
    With fewer samples than bins each sample is a bin.
    """
    confidence, correct = _confidence(probs, labels)
    _, inverse, counts = confidence.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, inverse, correct) / counts
    order = confidence.argsort()
    # part sizes differ by at most 1, the larger ones first
    parts = torch.arange(num_bins).repeat_interleave(
        torch.tensor(
            [len(part) for part in torch.arange(len(order)).tensor_split(fit(num_bins, PositiveInt, "num_bins"))]
        )
    )
    return _gap(confidence[order], shared[inverse[order]], parts, num_bins)


def class_wise_ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Mean over classes of the ECE of "is it this class?", with its probability as confidence (Kull et al. 2019).

    Each class bins all samples by their probability of it, in the bins of :func:`ece`; classes count alike.
    """
    probs, labels = check(probs, labels)
    gaps = [
        _gap(of, (labels == index).double(), _equal_width(of, num_bins), num_bins)
        for index, of in enumerate(probs.T.contiguous())
    ]
    return sum(gaps) / len(gaps)


def confusion(probs: Tensor, labels: Tensor) -> Tensor:
    """Counts [classes, classes], int64: rows are labels, columns predictions."""
    probs, labels = check(probs, labels)
    classes = probs.shape[1]
    return torch.bincount(labels * classes + probs.argmax(1), minlength=classes**2).reshape(classes, classes)


def per_class_accuracy(probs: Tensor, labels: Tensor) -> list[float | None]:
    """Fraction of each class's samples that are recognised; None for a class without samples."""
    counts = confusion(probs, labels)
    return [int(row[index]) / int(row.sum()) if row.sum() else None for index, row in enumerate(counts)]


def _confidence(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Largest probability [N] and correctness [N] (0.0 or 1.0)."""
    probs, labels = check(probs, labels)
    confidence, prediction = probs.max(1)
    return confidence, (prediction == labels).double()


def _equal_width(confidence: Tensor, num_bins: int) -> Tensor:
    edges = torch.linspace(0, 1, fit(num_bins, PositiveInt, "num_bins") + 1, dtype=torch.float64)
    # sums within the tolerance may exceed 1 a little, and 1 itself lies behind the last edge
    return (torch.bucketize(confidence, edges, right=True) - 1).clamp_max(num_bins - 1)


def _sums(confidence: Tensor, correct: Tensor, bins: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, summed confidence and summed correctness of each bin, each [num_bins]."""
    counts = torch.bincount(bins, minlength=num_bins)
    confidences = torch.bincount(bins, weights=confidence, minlength=num_bins)
    return counts, confidences, torch.bincount(bins, weights=correct, minlength=num_bins)


def _gap(confidence: Tensor, correct: Tensor, bins: Tensor, num_bins: int) -> float:
    """Sum over bins of (n_b / N) abs(accuracy_b - confidence_b)."""
    _, confidences, hits = _sums(confidence, correct, bins, num_bins)
    return float((hits - confidences).abs().sum() / len(bins))
