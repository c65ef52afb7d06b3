"""Calibration as the code of Bayesian nested networks measures it, beside what this package reports.

It averages the logits of several passes and not their probabilities, and it averages the calibration errors of small
batches (cifar_eval_vnd.py:155-162). The second is far too large: few samples never agree with their confidence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunebench.measure import calibration

BATCH = 64
"""Of the official test loader."""


def average_logits(probs: Tensor) -> Tensor:
    """The softmax of the mean logits of S passes, ``[S, N, classes]`` -> ``[N, classes]``.

    Logits differ from log-probabilities by a constant for each sample and pass, which the softmax takes out again.
    """
    tiny = torch.finfo(torch.float32).tiny  # a float32 softmax underflows there
    return torch.softmax(probs.double().clamp_min(tiny).log().mean(0), dim=1)


def batched_ece(probs: Tensor, labels: Tensor, batch_size: int = BATCH) -> float:
    """Mean of the calibration errors of consecutive batches; ``probs [N, classes]``, ``labels [N]``."""
    parts = zip(probs.split(batch_size), labels.split(batch_size), strict=True)
    errors = [calibration.ece(*part) for part in parts]
    return sum(errors) / len(errors)


def summarise(probs: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy and ECE of the averaged logits of ``[S, N, classes]``, and that ECE by batches."""
    average = average_logits(probs)
    return {
        "logit_average_accuracy": calibration.num_correct(average, labels) / len(labels),
        "logit_average_ece": calibration.ece(average, labels),
        "logit_average_batched_ece": batched_ece(average, labels),
    }
