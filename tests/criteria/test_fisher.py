"""Magnitude first, then Fisher information, on a hand-made list."""

from __future__ import annotations

import pytest
import torch

from prunebench.criteria.fisher import Ranking, magnitude_then_fisher, weakest

MEAN = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5, 0.6, 0.7, 0.8, 0.9, -1.0])
FISHER = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 1.0, 2.0, 3.0, 4.0, 0.0])
STD = torch.tensor([0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0])


def where(mask: torch.Tensor) -> list[int]:
    found: list[int] = mask.nonzero()[:, 0].tolist()
    return found


def test_the_smallest_go_first_and_of_the_rest_those_of_least_information() -> None:
    mask = magnitude_then_fisher(MEAN.abs(), FISHER, num_magnitude=2, num_fisher=3)
    assert where(mask) == [0, 1, 5, 6, 9]


def test_what_magnitude_took_is_not_taken_twice() -> None:
    mask = magnitude_then_fisher(MEAN.abs(), MEAN.abs(), num_magnitude=2, num_fisher=3)
    assert where(mask) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ("snr", [1, 2, 9]),  # |mean| / std: 10, 2, 3, ..., 0.11
        ("magnitude", [0, 1, 2]),
        ("fisher", [5, 6, 9]),
        ("magnitude_fisher", [0, 1, 9]),  # floor(10 * 0.3 * 0.7) = 2 by magnitude, the third by information
    ],
)
def test_rankings(ranking: Ranking, expected: list[int]) -> None:
    mask = weakest(MEAN, STD, FISHER, ranking=ranking, ratio=0.3, fisher_share=0.3)
    assert where(mask) == expected
