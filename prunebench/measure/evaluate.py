"""Predictions of a net on a data set, and the metrics of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunebench.errors import UserError
from prunebench.measure import calibration, uncertainty
from prunebench.measure.statistics import clopper_pearson

TOP5_CLASSES = 100  # from so many classes on, the top-5 accuracy says something

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Predictions on a whole data set, in its order.

    Attributes:
        probs: [N, classes], float64, mean over the samples of the predictive distribution.
        labels: [N], int64.
        num_predictions: S.
        expected_entropy: [N], float64, nats: mean over the samples of the entropy of each; None with one sample.
    """

    probs: Tensor
    labels: Tensor
    num_predictions: int = 1
    expected_entropy: Tensor | None = None

    def scores(self) -> dict[str, Tensor]:
        """Uncertainties of each input, [N], see :func:`prunebench.measure.uncertainty.scores`."""
        return uncertainty.scores(self.probs, self.expected_entropy)


def probabilities(predict: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> Evaluation:
    """Run ``predict`` over all batches, without gradients.

    Args:
        predict: gives probabilities [S, B, classes] for a batch ``(inputs, labels [B])``; the caller puts the net into
            evaluation mode.
        batches: the data set; the last batch may be smaller, and no sample is dropped.

    Raises:
        UserError: there is no batch, or a prediction has another shape.
    """
    means: list[Tensor] = []
    labels: list[Tensor] = []
    expected: list[Tensor] = []
    num_predictions = 1
    with torch.no_grad():
        for batch in batches:
            predicted = predict(batch).detach()
            if predicted.ndim != 3 or predicted.shape[1] != len(batch[1]) or not len(predicted):
                raise UserError(
                    f"evaluate: a prediction must be [samples, {len(batch[1])}, classes] with at least one sample, "
                    f"got {list(predicted.shape)}"
                )
            means.append(predicted.double().mean(0).cpu())
            labels.append(batch[1].detach().long().cpu())
            num_predictions = len(predicted)
            if num_predictions > 1:  # here, since all samples of a large set would not fit into the memory
                expected.append(uncertainty.expected_entropy(predicted).cpu())
    if not labels:
        raise UserError("evaluate: the data set has no batch; choose a split that is not empty")
    return Evaluation(
        probs=torch.cat(means),
        labels=torch.cat(labels),
        num_predictions=num_predictions,
        expected_entropy=torch.cat(expected) if expected else None,
    )


def held_out(evaluation: Evaluation) -> dict[str, Any]:
    """``metrics.<stage>.validation``: what may be chosen by, as the test set's may not."""
    probs, labels = evaluation.probs, evaluation.labels
    correct = calibration.num_correct(probs, labels)
    return {"num_samples": len(labels), "accuracy": correct / len(labels), "nll": calibration.nll(probs, labels)}


def summarise(evaluation: Evaluation, num_classes: int) -> dict[str, Any]:
    """The metrics of ``result.json`` as plain JSON data; accuracies and calibration errors are fractions.

    Keys: ``num_samples``, ``correct``, ``accuracy``, ``interval`` (Clopper-Pearson 95 %, [low, high]), ``top5``
    (from 100 classes on), ``nll`` (nats), ``brier`` (sum over classes), ``ece``, ``adaptive_ece`` and
    ``class_wise_ece`` (of ``ece_bins`` bins with the norm ``ece_norm``), ``per_class_accuracy`` (None for a class
    without samples), ``num_predictions`` (S, how many predictions were averaged), ``uncertainty`` (see
    ``measure.uncertainty``).

    Raises:
        UserError: the predictions have another number of classes.
    """
    probs, labels = evaluation.probs, evaluation.labels
    if probs.shape[1] != num_classes:
        raise UserError(f"evaluate: the net predicts {probs.shape[1]} classes, the data set has {num_classes}")
    correct = calibration.num_correct(probs, labels)
    metrics: dict[str, Any] = {
        "num_samples": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "interval": list(clopper_pearson(correct, len(labels))),
    }
    if num_classes >= TOP5_CLASSES:
        metrics["top5"] = calibration.top_k_accuracy(probs, labels, 5)
    return metrics | {
        "nll": calibration.nll(probs, labels),
        "brier": calibration.brier(probs, labels),
        "ece": calibration.ece(probs, labels),
        "adaptive_ece": calibration.adaptive_ece(probs, labels),
        "class_wise_ece": calibration.class_wise_ece(probs, labels),
        "ece_bins": calibration.NUM_BINS,
        "ece_norm": "l1",
        "per_class_accuracy": calibration.per_class_accuracy(probs, labels),
        "num_predictions": evaluation.num_predictions,
        "uncertainty": uncertainty.summarise(probs, labels, evaluation.expected_entropy),
    }
