from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as peer
from torch import Tensor

from prunebench.errors import UserError
from prunebench.measure import calibration
from tests.measure.peer_values import CLASS_WISE_ECE, predictions


def random_predictions(samples: int = 500, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, generator=generator)
    probs = torch.softmax(logits, dim=1)
    return probs, torch.multinomial(probs.sqrt(), 1, generator=generator)[:, 0]


def binary(confidences: list[float]) -> Tensor:
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([1 - p, p], dim=1)


HAND = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05]], dtype=torch.float64)
HAND_LABELS = torch.tensor([0, 1, 1, 2])  # right, wrong, right, wrong


def test_hand_example() -> None:
    assert calibration.num_correct(HAND, HAND_LABELS) == 2
    assert calibration.top_k_accuracy(HAND, HAND_LABELS, 2) == 0.75
    assert calibration.top_k_accuracy(HAND, HAND_LABELS, 3) == 1.0
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5) + math.log(0.05)) / 4
    assert calibration.nll(HAND, HAND_LABELS) == pytest.approx(expected)
    squares = (0.09 + 0.04 + 0.01) + (0.01 + 0.49 + 0.36) + (0.16 + 0.25 + 0.01) + (0.81 + 0.0025 + 0.9025)
    assert calibration.brier(HAND, HAND_LABELS) == pytest.approx(squares / 4)
    # two bins: below and from 0.5; all four confidences 0.7, 0.6, 0.5, 0.9 are in the second
    assert calibration.ece(HAND, HAND_LABELS, num_bins=2) == pytest.approx(abs(2 - 2.7) / 4)
    # equal mass: {0.5 right, 0.6 wrong} and {0.7 right, 0.9 wrong}
    assert calibration.adaptive_ece(HAND, HAND_LABELS, num_bins=2) == pytest.approx((0.1 + 0.6) / 4)
    assert calibration.per_class_accuracy(HAND, HAND_LABELS) == [1.0, 0.5, 0.0]
    assert calibration.confusion(HAND, HAND_LABELS).tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_confidence_of_one_belongs_to_the_last_bin() -> None:
    probs, labels = binary([0.95, 1.0]), torch.tensor([1, 0])
    # one bin: accuracy 0.5, confidence 0.975; a phantom bin for 1.0 would give (0.05 + 1) / 2 = 0.525
    assert calibration.ece(probs, labels) == pytest.approx(0.475)


def test_lower_edge_belongs_to_the_bin() -> None:
    # four bins: 0.5 and 0.74 share the third one, 0.75 starts the last: gaps of |1 - 1.24| and |1 - 0.75|
    probs, labels = binary([0.5, 0.74, 0.75]), torch.tensor([0, 0, 1])  # right, wrong, right
    assert calibration.ece(probs, labels, 4) == pytest.approx((0.24 + 0.25) / 3)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_torchmetrics_agrees_below_one(num_bins: int) -> None:
    probs, labels = random_predictions()
    assert probs.max() < 1
    assert calibration.ece(probs, labels, num_bins) == pytest.approx(
        float(peer.multiclass_calibration_error(probs.double(), labels, 7, n_bins=num_bins, norm="l1")),
        abs=1e-6,  # the peer computes in float32
    )
    assert calibration.num_correct(probs, labels) / len(labels) == pytest.approx(
        float(peer.multiclass_accuracy(probs, labels, 7, average="micro"))
    )
    assert calibration.top_k_accuracy(probs, labels, 5) == pytest.approx(
        float(peer.multiclass_accuracy(probs, labels, 7, average="micro", top_k=5))
    )
    matrix = peer.multiclass_confusion_matrix(probs, labels, 7)
    assert torch.equal(calibration.confusion(probs, labels), matrix)


def test_nll_agrees_with_cross_entropy_and_brier_with_numpy() -> None:
    probs, labels = random_predictions()
    cross_entropy = torch.nn.functional.nll_loss(probs.double().log(), labels)
    assert calibration.nll(probs, labels) == pytest.approx(float(cross_entropy))
    truth = np.eye(7)[labels.numpy()]
    assert calibration.brier(probs, labels) == pytest.approx(((probs.double().numpy() - truth) ** 2).sum(1).mean())


def test_adaptive_ece_agrees_with_numpy_without_ties() -> None:
    probs, labels = random_predictions(samples=503)
    confidence = probs.double().numpy().max(1)
    correct = probs.numpy().argmax(1) == labels.numpy()
    parts = np.array_split(np.argsort(confidence), 15)
    expected = sum(len(p) / 503 * abs(correct[p].mean() - confidence[p].mean()) for p in parts)
    assert calibration.adaptive_ece(probs, labels) == pytest.approx(expected)


def test_adaptive_ece_does_not_depend_on_the_order_of_ties() -> None:
    probs, labels = binary([0.8] * 40), torch.tensor([1] * 32 + [0] * 8)
    assert calibration.adaptive_ece(probs, labels) == pytest.approx(0.0)
    assert calibration.adaptive_ece(probs, labels.flip(0)) == pytest.approx(0.0)


def test_class_wise_ece_by_hand_and_as_torch_uncertainty() -> None:
    # each class alone, with one bin: the gap between its mean probability and its share of the labels
    means, shares = HAND.mean(0), torch.bincount(HAND_LABELS, minlength=3) / 4
    assert calibration.class_wise_ece(HAND, HAND_LABELS, num_bins=1) == pytest.approx(
        float((means - shares).abs().mean())
    )
    assert calibration.class_wise_ece(*predictions()) == pytest.approx(CLASS_WISE_ECE, abs=1e-12)


def test_perfect_predictor_is_perfect_for_any_number_of_samples() -> None:
    for samples in (1, 2, 14, 15, 16, 128, 1000):
        labels = torch.arange(samples) % 10
        probs = torch.nn.functional.one_hot(labels, 10).float()
        assert calibration.num_correct(probs, labels) == samples
        assert calibration.top_k_accuracy(probs, labels, 5) == 1.0
        assert calibration.nll(probs, labels) == 0.0
        assert calibration.brier(probs, labels) == 0.0
        assert calibration.ece(probs, labels) == 0.0
        assert calibration.adaptive_ece(probs, labels) == 0.0


def test_worst_predictor_has_finite_scores() -> None:
    probs, labels = binary([1.0, 1.0]), torch.tensor([0, 0])
    assert calibration.num_correct(probs, labels) == 0
    assert calibration.nll(probs, labels) == pytest.approx(87.336544)
    assert calibration.brier(probs, labels) == 2.0
    assert calibration.ece(probs, labels) == 1.0


def test_ties_go_to_the_lower_class() -> None:
    uniform = torch.full((4, 4), 0.25)
    labels = torch.arange(4)
    assert calibration.num_correct(uniform, labels) == 1
    assert calibration.top_k_accuracy(uniform, labels, 1) == 0.25
    assert calibration.top_k_accuracy(uniform, labels, 2) == 0.5


def test_class_without_samples_has_no_accuracy() -> None:
    assert calibration.per_class_accuracy(HAND, torch.tensor([0, 0, 1, 1])) == [0.5, 0.5, None]


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (torch.randn(4, 3).abs() * 9, torch.zeros(4), "logits"),
        (torch.full((4, 3), math.nan), torch.zeros(4), "logits"),
        (torch.full((4, 2), 0.5), torch.tensor([0, 1, 2, 0]), r"\[0, 2\), got 0 to 2"),
        (torch.full((4, 2), 0.5), torch.zeros(3), r"shapes \[4, 2\] and \[3\]"),
        (torch.zeros(0, 2), torch.zeros(0), "N >= 1"),
    ],
)
def test_what_is_no_prediction_is_refused(probs: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibration.num_correct(probs, labels)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(UserError, match=r"k must be in \[1, 3\], got 4"):
        calibration.top_k_accuracy(HAND, HAND_LABELS, 4)
    with pytest.raises(UserError, match="num_bins must be a whole number of at least 1, got 0"):
        calibration.ece(HAND, HAND_LABELS, 0)
    with pytest.raises(UserError, match="num_bins must be a whole number of at least 1, got 0"):
        calibration.adaptive_ece(HAND, HAND_LABELS, 0)
