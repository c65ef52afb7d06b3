"""What a net says about its own doubt: entropies of its predictions, and how well they find errors and foreign data.

With S predictions p_s(y|x) of one input (S weight samples) the predictive distribution is their mean. Its entropy is
the total uncertainty; the mean of the S entropies is what remains if the weights were known (aleatoric); the
difference, the mutual information of label and weights, is what the weights do not know (epistemic; Houlsby et al.
2011; Depeweg et al. 2018). All are in nats and computed in float64.

A score finds errors (or foreign inputs) as well as its ranking does: the AUROC is the probability that a positive has a
higher score than a negative, ties counted half; 0.5 is chance. The scores are 1 - largest probability (Hendrycks and
Gimpel 2017), the entropy of the mean prediction and, with S > 1, the mutual information.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.errors import UserError

RECALL = 0.95  # of the positives, where the false positive rate is read (Hendrycks et al., ICLR 2019)


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats of each distribution along the last dimension, ``[..., classes]`` to ``[...]``; 0 ln 0 = 0."""
    nats: Tensor = torch.special.entr(probs.detach().double()).sum(-1)
    return nats


def expected_entropy(samples: Tensor) -> Tensor:
    """Mean over the samples of the entropy of each prediction, ``[S, N, classes]`` to ``[N]``, nats."""
    return entropy(samples).mean(0)


def mutual_information(total: Tensor, expected: Tensor) -> Tensor:
    """Entropy of the mean prediction minus the mean entropy, ``[N]``, nats; never negative (Jensen)."""
    return (total - expected).clamp_min(0.0)


def scores(probs: Tensor, expected: Tensor | None) -> dict[str, Tensor]:
    """The uncertainty of each input, higher = less certain.

    Args:
        probs: mean prediction, ``[N, classes]``.
        expected: mean entropy of the single predictions, ``[N]``; None if there is only one.

    Returns:
        ``confidence`` (1 - largest probability), ``entropy`` and, with ``expected``, ``mutual_information``; ``[N]``.
    """
    total = entropy(probs)
    found = {"confidence": 1.0 - probs.detach().double().max(-1).values, "entropy": total}
    return found if expected is None else found | {"mutual_information": mutual_information(total, expected)}


def auroc(score: Tensor, positive: Tensor) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2; None without positives or without negatives.

    Args:
        score: ``[N]``, finite.
        positive: bool ``[N]``.

    Raises:
        UserError: shapes that do not fit, or a score that is not a number.
    """
    from torchmetrics.functional.classification import binary_auroc  # takes a second; only a measurement needs it

    ranks, positive = _ranked(score, positive)
    if positive.all() or not positive.any():  # torchmetrics gives 0
        return None
    return float(binary_auroc(ranks, positive.long()))


def aupr(score: Tensor, positive: Tensor) -> float | None:
    """Average precision: sum over the thresholds of (recall gained) x precision; None without positives.

    Equal scores are one threshold. Chance is the share of positives. Arguments and errors as for :func:`auroc`.
    """
    from torchmetrics.functional.classification import binary_average_precision

    ranks, positive = _ranked(score, positive)
    if not positive.any():
        return None
    return float(binary_average_precision(ranks, positive.long()))


def false_positive_rate(score: Tensor, positive: Tensor, recall: float = RECALL) -> float | None:
    """Share of negatives above the highest threshold that finds ``recall`` of the positives; None as in :func:`auroc`.

    What reaches the threshold counts as found. Arguments and errors as for :func:`auroc`.
    """
    ranks, positive = _ranked(score, positive)
    if positive.all() or not positive.any():
        return None
    found = ranks[positive].sort(descending=True).values
    needed = math.ceil(recall * len(found) - 1e-9)  # 0.95 * 20 is a little more than 19 in floating point
    return float((ranks[~positive] >= found[needed - 1]).double().mean())


def risk_coverage(score: Tensor, wrong: Tensor) -> float:
    """AURC: mean over k of the share of errors among the k least uncertain inputs (Geifman and El-Yaniv 2017).

    Equal scores share their mean error, so the order of the inputs cannot matter. 0 = no errors at all; with errors
    the best ranking has them all last.

    Args:
        score: ``[N]``, finite, higher = less certain.
        wrong: bool ``[N]``.

    Raises:
        UserError: as for :func:`auroc`.
    """
    ranks, wrong = _ranked(score, wrong)
    _, level, size = ranks.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(size), dtype=torch.float64).index_add_(0, level, wrong.double()) / size
    errors = shared.repeat_interleave(size).cumsum(0)
    return float((errors / torch.arange(1, len(errors) + 1)).mean())


def summarise(probs: Tensor, labels: Tensor, expected: Tensor | None) -> dict[str, Any]:
    """``metrics.<stage>.uncertainty`` of ``result.json``.

    Keys: the means over the set ``entropy``, and with several predictions ``expected_entropy`` and
    ``mutual_information`` (nats); for each score of :func:`scores` ``error_auroc_<score>`` and ``error_aupr_<score>``:
    how well it separates errors from hits, and ``error_fpr95_<score>``: the share of hits that are refused where 95 %
    of the errors are; null if there are none of one kind. ``aurc_<score>``: see :func:`risk_coverage`.
    """
    wrong = probs.argmax(1) != labels
    found = scores(probs, expected)
    result: dict[str, Any] = {"entropy": float(found["entropy"].mean())}
    if expected is not None:
        result["expected_entropy"] = float(expected.double().mean())
        result["mutual_information"] = float(found["mutual_information"].mean())
    for name, score in found.items():
        result[f"error_auroc_{name}"] = auroc(score, wrong)
        result[f"error_aupr_{name}"] = aupr(score, wrong)
        result[f"error_fpr95_{name}"] = false_positive_rate(score, wrong)
        result[f"aurc_{name}"] = risk_coverage(score, wrong)
    return result


def compare(inside: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> dict[str, Any]:
    """How well each score separates foreign inputs (``outside``) from those of the test set (``inside``).

    Args:
        inside, outside: the scores of :func:`scores`, ``[N]`` and ``[M]``.

    Returns:
        ``entropy`` and ``mutual_information`` (means over the foreign inputs, nats), ``auroc_<score>`` and
        ``fpr95_<score>`` (the share of the test set that is refused where 95 % of the foreign inputs are).
    """
    result: dict[str, Any] = {
        name: float(outside[name].mean()) for name in ("entropy", "mutual_information") if name in outside
    }
    for name, score in outside.items():
        foreign = torch.arange(len(inside[name]) + len(score)) >= len(inside[name])
        both = torch.cat([inside[name], score])
        result[f"auroc_{name}"] = auroc(both, foreign)
        result[f"fpr95_{name}"] = false_positive_rate(both, foreign)
    return result


def _ranked(score: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks in [0, 1), equal scores share one: torchmetrics takes what lies outside for logits and squashes it."""
    if score.ndim != 1 or positive.shape != score.shape:
        raise UserError(
            f"uncertainty: needs scores [N] and as many truth values, got {list(score.shape)} and "
            f"{list(positive.shape)}"
        )
    score, positive = score.detach().cpu().double(), positive.detach().cpu().bool()
    if score.isnan().any():
        raise UserError("uncertainty: a score is not a number; the predictions are broken")
    place = score.unique(return_inverse=True)[1]
    return place.double() / len(place), positive
