"""Levels of the statistical protocol, and its oracles for pairs of nets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prunebench.measure.guarantee import against, level

FACTS: dict[str, Any] = {
    "accuracy_interval_95": [0.92, 0.93],
    "test_evaluations": 3,
    "selection": "last_epoch",
    "objective": "map",
    "against": {"p": 0.5},
}


def outcomes(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of two nets: ``b`` examples that only the second gets right, ``c`` only the first."""
    first, second = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    first[:b] = False
    second[b : b + c] = False
    return first, second


def test_the_oracles_of_the_specification() -> None:
    """(120, 90) of 10,000: d 0.0030, 95 % [0.000160, 0.005840], exact p 0.045114, lower limit 0.000617."""
    found = against(*outcomes(120, 90, 10_000), name="dense")
    assert (found["baseline"], found["b"], found["c"]) == ("dense", 120, 90)
    assert found["p"] == pytest.approx(0.045114, abs=1e-6)
    assert found["difference"] == pytest.approx(0.003)
    assert found["interval_95"] == pytest.approx([0.000160, 0.005840], abs=6e-5)
    assert found["noninferior"] is True


def test_no_significant_difference_is_no_proof_of_no_drop() -> None:
    found = against(*outcomes(60, 80, 1_000), name="dense")
    assert found["p"] > 0.05
    assert found["noninferior"] is False


def test_a_small_test_set_shows_no_small_drop() -> None:
    assert against(*outcomes(0, 0, 360), name="dense")["noninferior"] is False, "z^2 / (n + z^2) is 0.75 %"
    assert against(*outcomes(0, 0, 10_000), name="dense")["noninferior"] is True


def test_levels() -> None:
    assert level(FACTS, num_seeds=3) == ("full", [])
    assert level(FACTS, num_seeds=2) == ("interval_only", ["2 of 3 seeds"])
    assert level(FACTS | {"selection": "test"}, num_seeds=5) == ("none", ["chosen on the test set"])
    assert level(FACTS | {"accuracy_interval_95": None}, num_seeds=5)[0] == "none"
    assert level({}, num_seeds=5)[0] == "none"


@pytest.mark.parametrize("key", ["test_evaluations", "objective", "against"])
def test_each_demand_counts(key: str) -> None:
    found, missing = level(FACTS | {key: None}, num_seeds=3)
    assert found == "interval_only"
    assert len(missing) == 1
