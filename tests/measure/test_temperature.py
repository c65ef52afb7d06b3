from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from prunebench.core.method import Method
from prunebench.data.base import Batches
from prunebench.measure import calibration, temperature
from prunebench.run.measurement import on_test_set
from tests.bare import MadeUp, bare_run
from tests.measure.peer_values import TEMPERATURE, predictions


def test_the_temperature_is_torch_uncertaintys() -> None:
    """Which divides the logits and minimises by L-BFGS."""
    assert temperature.fitted(*predictions()) == pytest.approx(TEMPERATURE, abs=3e-5)


def test_two_classes_have_a_closed_form() -> None:
    """Equal confidence c with a share r of hits: the best T gives each prediction the confidence r."""
    confidence, hits, number = 0.95, 80, 100
    probs = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).repeat(number, 1)
    labels = (torch.arange(number) >= hits).long()
    expected = math.log(confidence / (1 - confidence)) / math.log(0.8 / 0.2)
    assert temperature.fitted(probs, labels) == pytest.approx(expected, rel=1e-5)
    assert calibration.ece(temperature.scaled(probs, expected), labels) == pytest.approx(0.0, abs=1e-9)


def test_logits_are_divided_and_the_order_of_classes_stays() -> None:
    logits = torch.randn(50, 4, dtype=torch.float64)
    probs = torch.softmax(logits, 1)
    for value in (0.5, 1.0, 3.0):
        scaled = temperature.scaled(probs, value)
        assert torch.allclose(scaled, torch.softmax(logits / value, 1), atol=1e-12)
        assert torch.equal(scaled.argmax(1), probs.argmax(1))


@pytest.mark.parametrize("sign", [1, -1])
def test_all_right_or_all_wrong_have_no_best_temperature(sign: int) -> None:
    probs = torch.softmax(sign * 3 * torch.eye(5, dtype=torch.float64), 1)
    assert temperature.fitted(probs, torch.arange(5)) is None
    found = temperature.summarise((probs, torch.arange(5)), predictions())
    assert found == {"value": None, "num_samples": 5, "nll": None, "ece": None, "brier": None}


def test_it_is_fitted_on_validation_and_scored_on_the_test_set() -> None:
    probs, labels = predictions()
    validation, test = (probs[:150], labels[:150]), (probs[150:], labels[150:])
    found = temperature.summarise(validation, test)
    assert found["value"] == temperature.fitted(*validation) and found["num_samples"] == 150
    assert found["nll"] == calibration.nll(temperature.scaled(test[0], found["value"]), test[1])
    assert found["nll"] < calibration.nll(*test)  # these are overconfident on both


class Labelled(MadeUp):
    """Classes 0 and 1 on validation, others on the test set."""

    def __init__(self, test_labels: list[int]) -> None:
        super().__init__(torch.zeros(1, 3, 32, 32))
        self.test_labels = test_labels

    def _labelled(self, labels: list[int]) -> Batches:
        inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        return [(part, torch.tensor(labels)) for part in inputs.split(2)]

    def validation(self, **_: Any) -> Batches:
        return self._labelled([0, 1])

    def test(self, **_: Any) -> Batches:
        return self._labelled(self.test_labels)


def test_each_measurement_has_it_where_there_is_a_validation_split() -> None:
    """Test labels say nothing to the fit: with others the temperature is the same."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    found, run = [], bare_run(net)
    for labels in ([0, 1], [5, 7]):
        run.data = Labelled(labels)
        found.append(on_test_set(net, Method(), run)[0]["temperature"])
    assert found[0]["value"] == found[1]["value"] is not None
    assert found[0]["nll"] != found[1]["nll"]
    run.data.num_val = 0
    assert "temperature" not in on_test_set(net, Method(), run)[0]
