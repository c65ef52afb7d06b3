"""The largest safe share of a curve, and histograms, by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from prunebench.measure.distribution import histogram
from prunebench.measure.pruning_curve import Spread, safe_ratio


def test_the_largest_share_before_the_first_that_exceeds() -> None:
    errors = {0.0: 0.10, 0.1: 0.12, 0.2: 0.09, 0.3: 0.121, 0.4: 0.08}
    curve = [(ratio, Spread(error, 0.02)) for ratio, error in errors.items()]
    assert safe_ratio(curve) == 0.2  # 0.12 is the limit itself; what comes after 0.3 does not count
    assert safe_ratio(curve[:1]) == 0.0
    assert safe_ratio([*curve[:1], (0.5, Spread(0.5, 0.5))]) == 0.0


def test_nothing_is_measured_behind_the_first_that_exceeds() -> None:
    asked: list[float] = []

    def curve() -> Iterator[tuple[float, Spread]]:
        for ratio in (0.0, 0.5, 0.9):
            asked.append(ratio)
            yield ratio, Spread(ratio, 0.1)

    assert safe_ratio(curve()) == 0.0 and asked == [0.0, 0.5]


def test_a_histogram_counts_everything_once() -> None:
    found = histogram(torch.tensor([0.0, 1.0, 1.5, 4.0, -torch.inf]), num_bins=4)
    assert found["edges"] == [0, 1, 2, 3, 4]
    assert found["counts"] == [1, 2, 0, 1] and found["below"] == 1
    assert found["cdf"] == pytest.approx([0.4, 0.8, 0.8, 1.0])
    assert sum(histogram(torch.zeros(3))["counts"]) == 3
