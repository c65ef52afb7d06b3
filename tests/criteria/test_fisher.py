"""Rankings of single weights, on hand-made lists."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from prunebench.criteria.fisher import RANKINGS, Ranking, importance, magnitude_then_fisher, weakest
from prunebench.criteria.snr import decibels, signal_to_noise

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


# six weights by hand
MU = torch.tensor([0.5, -0.1, 0.02, -0.8, 0.3, -0.05])
SIGMA = torch.tensor([0.5, 0.02, 0.01, 0.4, 0.6, 0.2])
F = torch.tensor([0.4, 30.0, 5.0, 0.1, 2.0, 50.0])


def dead(ranking: Ranking, ratio: float, share: float = 0.3) -> list[int]:
    return where(weakest(MU, SIGMA, F, ranking=ranking, ratio=ratio, fisher_share=share))


def test_signal_to_noise_and_decibels() -> None:
    ratio = signal_to_noise(MU.double(), SIGMA.double())
    assert ratio.tolist() == pytest.approx([1, 5, 2, 2, 0.5, 0.25], abs=1e-6)
    expected = [0, 6.9897, 3.0103, 3.0103, -3.0103, -6.0206]
    assert decibels(ratio).tolist() == pytest.approx(expected, abs=1e-4)
    assert decibels(torch.zeros(1)).tolist() == [-float("inf")]


@pytest.mark.parametrize(
    ("ranking", "order"),
    [
        ("snr", [5, 4, 0, 2, 3, 1]),  # 2 before 3: a tie goes by the index
        ("magnitude", [2, 5, 1, 4, 0, 3]),
        ("fisher", [3, 0, 4, 2, 1, 5]),
        ("fisher_mu2", [2, 3, 0, 5, 4, 1]),
    ],
)
def test_order_of_removal(ranking: Ranking, order: list[int]) -> None:
    # binary fractions: the ratios of both tied weights are exactly 2
    sigma = torch.tensor([0.5, 0.02, 0.01, 0.4, 0.6, 0.2], dtype=torch.float64)
    mu = torch.tensor([0.5, -0.1, 0.02, -0.8, 0.3, -0.05], dtype=torch.float64)
    for number in range(7):
        found = weakest(mu, sigma, F, ranking=ranking, ratio=number / 6, fisher_share=0.3)
        assert where(found) == sorted(order[:number])


def test_importance_values() -> None:
    found = importance(MU, SIGMA, F, ranking="fisher_mu2")
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.002, 0.064, 0.18, 0.125], rel=1e-5)
    # F (mu^2 + sigma^2): 0.4 (0.25 + 0.25), 30 (0.01 + 0.0004), 5 (0.0004 + 0.0001), 0.1 (0.64 + 0.16), ...
    found = importance(MU, SIGMA, F, ranking="expected")
    assert found.tolist() == pytest.approx([0.2, 0.312, 0.0025, 0.08, 0.9, 2.125], rel=1e-5)


@pytest.mark.parametrize(
    ("ranking", "third", "half"),
    [
        ("snr", [4, 5], [0, 4, 5]),
        ("magnitude", [2, 5], [1, 2, 5]),
        ("fisher", [0, 3], [0, 3, 4]),
        ("fisher_mu2", [2, 3], [0, 2, 3]),
    ],
)
def test_shares_of_six(ranking: Ranking, third: list[int], half: list[int]) -> None:
    assert dead(ranking, 1 / 3) == third
    assert dead(ranking, 1 / 2) == half


TEN = torch.arange(1, 11) / 100
INFORMATION = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0.5])


def mixed(ratio: float, share: float) -> set[int]:
    ones = torch.ones(10)
    return set(where(weakest(TEN, ones, INFORMATION, ranking="magnitude_fisher", ratio=ratio, fisher_share=share)))


def test_the_mixed_rule_takes_exactly_as_many_as_asked() -> None:
    assert mixed(0.5, 0.3) == {0, 1, 2, 8, 9}  # floor(3.5) = 3 by magnitude, two by information
    assert mixed(0.5, 0.0) == {0, 1, 2, 3, 4}
    assert mixed(0.5, 1.0) == {5, 6, 7, 8, 9}


def test_single_scores_nest_and_the_mixed_rule_need_not() -> None:
    torch.manual_seed(0)
    mu, sigma, information = torch.randn(200), torch.rand(200) + 0.1, torch.rand(200)

    def gone(ranking: Ranking, ratio: float) -> set[int]:
        return set(where(weakest(mu, sigma, information, ranking=ranking, ratio=ratio, fisher_share=0.5)))

    for ranking in set(RANKINGS) - {"magnitude_fisher"}:
        sets = [gone(ranking, ratio / 20) for ratio in range(21)]
        assert all(small <= large for small, large in pairwise(sets))
    # floor(1.4) = 1 by information, as floor(1.4 * 0.7) = 0; floor(1.43 * 0.7) = 1 by magnitude, and no more
    assert mixed(0.14, 0.3) == {9} and mixed(0.143, 0.3) == {0}


def test_equal_deviations_rank_as_magnitudes_and_a_common_factor_changes_no_ratio() -> None:
    torch.manual_seed(0)
    mu, sigma = torch.randn(100), torch.full((100,), 0.3)
    by = {kind: weakest(mu, sigma, mu, ranking=kind, ratio=0.4, fisher_share=0) for kind in ("snr", "magnitude")}
    assert torch.equal(by["snr"], by["magnitude"])
    factor = torch.where(torch.arange(100) < 50, 8.0, 1.0)  # one layer; a power of two rounds nothing
    scaled = {
        kind: weakest(mu * factor, sigma * factor, mu, ranking=kind, ratio=0.4, fisher_share=0)
        for kind in ("snr", "magnitude")
    }
    assert torch.equal(scaled["snr"], by["snr"]) and not torch.equal(scaled["magnitude"], by["magnitude"])
    # in units of its layer the factor is gone
    units = weakest(mu * factor, sigma, mu, ranking="magnitude", ratio=0.4, fisher_share=0, unit=factor.double())
    assert torch.equal(units, by["magnitude"])


def test_floor_of_a_product_and_many_zeros() -> None:
    zeros = torch.zeros(100)
    found = weakest(zeros, zeros, zeros, ranking="snr", ratio=0.29, fisher_share=0.0)  # 0.29 * 100 = 28.999...
    assert where(found) == list(range(29))
