"""Error estimates, divergences and distances of weights by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import beta

from prunebench.measure import reliability

SAMPLES = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]])
LABELS = torch.tensor([0, 0, 1])


def test_what_predictions_say_of_their_errors() -> None:
    found = reliability.summarise(SAMPLES, LABELS)
    # means 0.8, 0.5, 0.6: right (a tie goes to class 0), right, wrong
    assert found["error"] == pytest.approx(1 / 3)
    assert found["error_estimate"] == pytest.approx((0.2 + 0.5 + 0.4) / 3)
    assert found["error_estimate_gap"] == pytest.approx(1.1 / 3 - 1 / 3)
    assert found["single_error"]["mean"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found["single_error"]["std"] == pytest.approx(1 / 3 / math.sqrt(2))
    assert found["single_error"]["band_90"] == pytest.approx([1 / 3 + 0.05 / 3, 2 / 3 - 0.05 / 3])
    assert found["wrong"]["mutual_information"] == pytest.approx(0, abs=1e-7)
    total = (-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) + math.log(2)) / 2
    assert found["correct"]["entropy"] == pytest.approx(total, rel=1e-6)
    assert found["correct"]["mutual_information"] > 0.05
    right = reliability.summarise(SAMPLES[:1], torch.tensor([0, 0, 0]))
    assert right["wrong"] is None and right["single_error"]["std"] is None


def test_the_limit_of_the_error_is_one_sided() -> None:
    probs = torch.eye(2)[torch.tensor([0] * 97 + [1] * 3)]
    found = reliability.error_limit(probs, torch.zeros(100, dtype=torch.long))
    assert (found["num_samples"], found["num_errors"]) == (100, 3)
    assert found["upper_95"] == pytest.approx(beta.ppf(0.95, 4, 97))
    none = reliability.error_limit(probs[:97], torch.zeros(97, dtype=torch.long))
    assert none["upper_95"] == pytest.approx(1 - 0.05 ** (1 / 97))


def test_what_pruning_has_done_to_the_predictions() -> None:
    before, after = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    found = reliability.functional_loss(before, after)
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert found["kl_from_dense"] == pytest.approx((first + math.log(2)) / 2)
    assert found["agreement"] == pytest.approx(0.5)
    assert reliability.functional_loss(before, before) == {"kl_from_dense": 0.0, "agreement": 1.0}


def test_the_distance_of_weights_is_that_of_their_quantiles() -> None:
    assert reliability.wasserstein(torch.tensor([0.0, 1, 3]), torch.tensor([5.0, 6, 8])) == pytest.approx(5)
    whole = torch.tensor([-3.0, -1.0, 1.0, 3.0])  # standard deviation sqrt(5)
    found = reliability.distribution_loss(whole.repeat(2), whole, 2)
    assert found["wasserstein"] == pytest.approx(0)
    # the two largest are -3 and 3: half of the mass moves by 2
    assert found["wasserstein_magnitude"] == pytest.approx(1 / math.sqrt(5))
