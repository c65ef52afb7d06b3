"""Uncertainty calibration against hand-made examples."""

from __future__ import annotations

import math

import pytest
import torch

from prunebench.measure.uncertainty_calibration import overlap, summarise, uce, uncertainties

ERROR = torch.tensor([0, 0, 0, 0.1, 0.5, 0.5, 0.2, 0], dtype=torch.float64)
DOUBT = torch.tensor([0.05, 0.1, 0.12, 0.3, 0.9, 0.95, 0.4, 0], dtype=torch.float64)


def test_uce_of_eight_inputs() -> None:
    # three in the first bin, one each in the third and fourth, two in the last, the one of exactly 0 in none
    assert 100 * uce(ERROR, DOUBT, num_classes=2) == pytest.approx(6.5, abs=1e-9)
    parts = [3 * 0.09, 0.1, 0.0, 2 * 0.075]
    assert uce(ERROR, DOUBT, num_classes=2) == pytest.approx(sum(parts) / 8)


def test_uce_scales_the_error_by_what_guessing_costs() -> None:
    guessing = torch.full((5,), 0.75)
    assert uce(guessing, torch.ones(5), num_classes=4) == pytest.approx(0.0)
    assert uce(guessing, torch.ones(5), num_classes=2) == pytest.approx(0.5)


def test_a_bin_is_closed_above() -> None:
    # 1/8 belongs to the first bin with 0.1; were it in the second one, both gaps would count by themselves
    error, doubt = torch.tensor([0.1, 0.0]), torch.tensor([0.125, 0.1])
    assert uce(error, doubt, num_classes=2) == pytest.approx(abs(0.1 - 0.1125))


def test_entropies_of_three_predictions() -> None:
    found = uncertainties(torch.tensor([[[0.9, 0.1]], [[0.7, 0.3]], [[0.4, 0.6]]], dtype=torch.float64))
    values = {name: float(value[0]) for name, value in found.items()}
    assert values["entropy"] == pytest.approx(0.9182958, abs=1e-7)
    assert values["expected_entropy"] == pytest.approx(0.7737457, abs=1e-7)
    assert values["mutual_information"] == pytest.approx(0.1445501, abs=1e-7)
    assert math.log(2) * values["entropy"] == pytest.approx(0.6365141683, abs=1e-10)
    assert math.log(2) * values["expected_entropy"] == pytest.approx(0.5363196475, abs=1e-10)
    assert math.log(2) * values["mutual_information"] == pytest.approx(0.1001945208, abs=1e-10)
    first = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert values["single_pass_entropy"] == pytest.approx(first)


def test_a_certain_prediction_has_no_doubt_and_is_a_number() -> None:
    found = uncertainties(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    assert all(float(value[0]) == 0 for value in found.values())


def test_overlap_is_that_of_two_densities() -> None:
    torch.manual_seed(0)
    sample = torch.rand(50, 1)
    same, apart = overlap(sample, sample), overlap(torch.full((50, 1), 0.02), torch.full((50, 1), 0.98))
    # all of a narrow density inside [0, 1] has the mean 1; the tails outside are lost
    assert 0.7 < float(same) < 1.0 and float(apart) < 1e-4
    # two points at a distance d: the smaller density everywhere is that of the farther one
    points = torch.linspace(0, 1, 100, dtype=torch.float64)
    densities = [torch.distributions.Normal(centre, 0.1).log_prob(points).exp() for centre in (0.4, 0.6)]
    expected = torch.minimum(*densities).sum() / 100
    assert float(overlap(torch.full((3, 1), 0.4), torch.full((3, 1), 0.6))) == pytest.approx(float(expected), rel=1e-6)


def test_errors_are_those_of_single_draws_and_classes_are_told_by_their_label() -> None:
    # the mean prediction is right for both; the second draw is wrong about the first input
    samples = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.45, 0.55], [0.2, 0.8]]])
    found = summarise(samples, torch.tensor([0, 1]))
    assert found["sample_error"] == pytest.approx(0.25)
    assert found["sample_error_sd"] == pytest.approx(0.25)
    swapped = summarise(samples.flip(1), torch.tensor([1, 0]))
    for name in found["uce"]:
        assert swapped["class_wise_uce"][name] == pytest.approx(found["class_wise_uce"][name])
    doubts = uncertainties(samples)["entropy"]
    assert found["class_wise_uce"]["entropy"]["0"] == pytest.approx(abs(1.0 - float(doubts[0])))
    assert found["class_wise_uce"]["entropy"]["1"] == pytest.approx(float(doubts[1]))
    both = [found["class_wise_uce"]["entropy"][label] for label in ("0", "1")]
    assert found["class_wise_uce"]["entropy"]["mean"] == pytest.approx(sum(both) / 2)


def test_overlap_is_for_two_classes_and_an_absent_class_is_left_out() -> None:
    found = summarise(torch.full((2, 3, 3), 1 / 3), torch.tensor([0, 0, 2]))
    assert found["overlap"] is None
    assert found["class_wise_uce"]["entropy"].keys() == {"0", "2", "mean"}
