from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import xlogy
from scipy.stats import multinomial
from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from prunebench.errors import UserError
from prunebench.measure import statistics as st


@pytest.mark.parametrize(
    ("k", "n", "family", "expected"),
    [
        (9347, 10_000, 1, (0.929680, 0.939465)),
        (7560, 10_000, 1, (0.747458, 0.764392)),
        (38_000, 50_000, 1, (0.756231, 0.763738)),
        (0, 10, 1, (0.0, 0.308497)),
        (10, 10, 1, (0.691503, 1.0)),
        (5, 10, 1, (0.187086, 0.812914)),
        (9347, 10_000, 20, (0.926898, 0.941938)),
        (9347, 10_000, 100, (0.925681, 0.942982)),
    ],
)
def test_clopper_pearson(k: int, n: int, family: int, expected: tuple[float, float]) -> None:
    assert st.clopper_pearson(k, n, family=family) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 7), (359, 360), (49_999, 50_000)])
def test_clopper_pearson_agrees_with_statsmodels(k: int, n: int) -> None:
    for level in (0.5, 0.95, 0.99):
        exact = proportion_confint(k, n, alpha=1 - level, method="beta")
        assert st.clopper_pearson(k, n, level) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize(
    ("b", "c", "exact", "mid_p"),
    [
        (120, 90, 0.045114, 0.038643),
        (9, 1, 0.021484, 0.011719),
        (25, 25, 1.0, 0.943862),
        (1, 1, 1.0, 0.75),
        (310, 280, 0.232485, None),
        (5, 0, 0.0625, 0.03125),
        (6, 0, 0.03125, None),
        (0, 0, 1.0, 1.0),
    ],
)
def test_mcnemar(b: int, c: int, exact: float, mid_p: float | None) -> None:
    test = st.mcnemar(b, c)
    assert test.exact == pytest.approx(exact, abs=5e-7)
    assert st.mcnemar(c, b) == test
    if mid_p is not None:
        assert test.mid_p == pytest.approx(mid_p, abs=5e-7)
    if b + c:
        peer = peer_mcnemar([[50, b], [c, 50]], exact=True)
        assert test.exact == pytest.approx(peer.pvalue)


def test_mid_p_counts_equally_extreme_outcomes_by_half() -> None:
    for n in range(1, 13):
        for b in range(n + 1):
            # by definition, in whole numbers: all outcomes of n fair coins, by their distance from the middle
            gap = abs(2 * b - n)
            weights = {k: math.comb(n, k) for k in range(n + 1)}
            more = sum(weight for k, weight in weights.items() if abs(2 * k - n) > gap)
            equal = sum(weight for k, weight in weights.items() if abs(2 * k - n) == gap)
            found = st.mcnemar(b, n - b)
            assert found.exact == pytest.approx((more + equal) / 2**n)
            assert found.mid_p == pytest.approx((more + equal / 2) / 2**n)


def normal_interval(b: int, c: int, n: int) -> tuple[float, float]:
    half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (b - c) / n - half, (b - c) / n + half


def test_paired_difference_and_non_inferiority() -> None:
    # the protocol's values are of the normal interval, which many discordant examples make the same
    pair, wide = st.paired_difference(120, 90, 10_000), st.paired_difference(310, 280, 10_000)
    assert pair.difference == pytest.approx(0.0030)
    assert normal_interval(120, 90, 10_000) == pytest.approx((0.000160, 0.005840), abs=5e-7)
    assert pair.interval == pytest.approx((0.000160, 0.005840), abs=6e-5)
    assert wide.interval == pytest.approx((-0.001760, 0.007760), abs=3e-5)
    assert st.noninferiority_limit(120, 90, 10_000) == pytest.approx(0.000617, abs=5e-6)


def test_equal_answers_are_no_proof_of_equal_nets() -> None:
    # without any discordant example the limit solves n d^2 = z^2 |d| (1 - |d|): -z^2 / (n + z^2)
    for n in (36, 360, 10_000):
        limit = 1.959964**2 / (n + 1.959964**2)
        assert st.paired_difference(0, 0, n).interval == pytest.approx((-limit, limit))
        assert st.noninferiority_limit(0, 0, n) == pytest.approx(-(1.644854**2) / (n + 1.644854**2))
    assert st.paired_difference(0, 50, 50).interval[0] == -1


@pytest.mark.parametrize("b", [0, 1, 2, 1000])
def test_of_very_many_examples_nearly_all_may_differ(b: int) -> None:
    low, high = st.paired_difference(b, 10**9 - b, 10**9).interval
    assert -1 <= low <= 2 * b / 10**9 - 1 <= high <= -1 + 1e-5


@pytest.mark.parametrize(("b", "c", "n"), [(1, 0, 36), (3, 13, 360), (0, 5, 100), (12, 2, 40), (40, 0, 40)])
def test_the_limits_are_those_of_the_score_test(b: int, c: int, n: int) -> None:
    """There the difference is z standard errors away, at the most likely probabilities that have this difference."""
    for limit in st.paired_difference(b, c, n).interval:
        if abs(limit) == 1:
            continue
        shares = np.linspace(max(0.0, -limit), min(1.0, (1 - limit) / 2 + max(0.0, -limit)), 400_001)
        shares = shares[2 * shares + limit <= 1]
        outcomes = ((shares + limit, b), (shares, c), (1 - 2 * shares - limit, n - b - c))
        likelihood = sum(xlogy(number, np.maximum(share, 0)) for share, number in outcomes)
        share = shares[np.argmax(likelihood)]
        error = math.sqrt(n * (2 * share + limit - limit**2))
        assert abs(b - c - n * limit) / error == pytest.approx(1.959964, rel=1e-3)


def test_the_interval_covers_the_truth_where_few_examples_differ() -> None:
    n, first, second = 100, 0.03, 0.01
    kinds = [(b, c) for b in range(25) for c in range(25)]
    chances = [multinomial.pmf((b, c, n - b - c), n, (first, second, 1 - first - second)) for b, c in kinds]
    covered = sum(
        chance
        for (b, c), chance in zip(kinds, chances, strict=True)
        if (span := st.paired_difference(b, c, n).interval)[0] <= first - second <= span[1]
    )
    normal = sum(
        chance
        for (b, c), chance in zip(kinds, chances, strict=True)
        if (span := normal_interval(b, c, n))[0] <= first - second <= span[1]
    )
    assert covered > 0.94 > normal


def test_discordant_examples_are_counted_on_both_sides() -> None:
    assert st.discordant([True, True, False, True, False], [True, False, True, False, False]) == (2, 1)


def test_adjusted_p_values() -> None:
    p = [0.001, 0.012, 0.02, 0.04, 0.3]
    assert st.holm(p) == pytest.approx([0.005, 0.048, 0.06, 0.08, 0.3])


def test_adjusted_p_values_keep_the_given_order() -> None:
    p = [0.3, 0.001, 0.04, 0.02, 0.02, 0.9]
    assert st.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert st.holm([]) == []


def test_seeds() -> None:
    five, three = (93.58, 93.41, 93.77, 93.60, 93.49), (93.4, 93.6, 93.1)
    mean = st.mean_of_seeds(five)
    assert (mean.mean, mean.sd, mean.half_width) == pytest.approx((93.57, 0.135093, 0.167740), abs=5e-7)
    mean = st.mean_of_seeds(three)
    assert (mean.mean, mean.sd, mean.half_width) == pytest.approx((93.366667, 0.251661, 0.625161), abs=5e-7)


def test_coverage_of_clopper_pearson_is_at_least_nominal() -> None:
    # exact coverage by summing the binomial over all outcomes
    n = 30
    intervals = [st.clopper_pearson(k, n) for k in range(n + 1)]
    for p in (0.02, 0.3, 0.5, 0.93):
        weights = [float(scipy.stats.binom.pmf(k, n, p)) for k in range(n + 1)]
        covered = sum(w for w, (low, high) in zip(weights, intervals, strict=True) if low <= p <= high)
        assert covered >= 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.clopper_pearson(11, 10), "k=11 and n=10"),
        (lambda: st.clopper_pearson(0, 0), "n=0"),
        (lambda: st.clopper_pearson(1, 2, level=95), r"level must be a number in \(0, 1\), got 95"),
        (lambda: st.mcnemar(-1, 2), "got -1 and 2"),
        (lambda: st.mean_of_seeds([0.9]), "at least 2 values"),
        (lambda: st.discordant([True], [True, False]), "one length"),
        (lambda: st.holm([0.1, math.nan]), "p-values"),
    ],
)
def test_misuse_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UserError, match=message):
        call()
