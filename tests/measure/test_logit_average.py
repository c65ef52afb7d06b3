from __future__ import annotations

import pytest
import torch

from prunebench.measure.calibration import ece
from prunebench.measure.logit_average import average_logits, batched_ece, summarise


def test_the_softmax_of_mean_logits_from_probabilities_alone() -> None:
    logits = 3 * torch.randn(5, 20, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(average_logits(logits.softmax(-1)), logits.mean(0).softmax(-1))


def test_an_underflow_is_no_nan() -> None:
    found = average_logits(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert found.tolist() == [[0.5, 0.5]]


def test_the_mean_of_two_batches() -> None:
    probs = torch.tensor([[0.75, 0.25]] * 4)
    labels = torch.tensor([0, 0, 0, 1])  # calibrated as a whole: 3 of 4 right at 0.75
    assert ece(probs, labels) == pytest.approx(0)
    assert batched_ece(probs, labels, batch_size=2) == pytest.approx((0.25 + 0.25) / 2)
    found = summarise(probs[None].expand(3, 4, 2), labels)
    assert found == pytest.approx(
        {"logit_average_accuracy": 0.75, "logit_average_ece": 0, "logit_average_batched_ece": 0}, abs=1e-9
    )


def test_small_batches_make_a_calibrated_net_look_bad() -> None:
    """6,400 predictions that are right as often as they say: about 0.008 in one set, about 0.11 by batches of 64."""
    draws = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(6400, generator=draws, dtype=torch.double)
    labels = (torch.rand(6400, generator=draws, dtype=torch.double) >= confidence).long()
    probs = torch.stack([confidence, 1 - confidence], 1)
    assert ece(probs, labels) < 0.02
    assert 0.08 < batched_ece(probs, labels) < 0.15
