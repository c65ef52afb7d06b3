from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
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
def test_intervals_agree_with_statsmodels(k: int, n: int) -> None:
    for level in (0.5, 0.95, 0.99):
        exact = proportion_confint(k, n, alpha=1 - level, method="beta")
        assert st.clopper_pearson(k, n, level) == pytest.approx(exact, abs=1e-10)
        wilson = proportion_confint(k, n, alpha=1 - level, method="wilson")
        assert st.wilson(k, n, level) == pytest.approx(wilson, abs=1e-10)


def test_wilson() -> None:
    assert st.wilson(9347, 10_000) == pytest.approx((0.929689, 0.939377), abs=5e-7)


def test_hoeffding() -> None:
    widths = {1000: 0.042947, 5000: 0.019206, 10_000: 0.013581, 50_000: 0.006074}
    family = {1000: 0.057813, 5000: 0.025855, 10_000: 0.018282, 50_000: 0.008176}
    assert {n: round(st.hoeffding(n), 6) for n in widths} == widths
    assert {n: round(st.hoeffding(n, family=20), 6) for n in family} == family
    assert round(st.hoeffding(10_000, family=1000), 6) == 0.023018
    assert round(st.hoeffding(10_000, one_sided=True), 6) == 0.012239
    assert [st.hoeffding_samples(width) for width in (0.01, 0.005, 0.001)] == [18_445, 73_778, 1_844_440]
    assert st.hoeffding_family(0.02, 10_000) == 74


def test_one_sided_error_limits() -> None:
    assert st.chernoff_upper(653, 10_000) == pytest.approx(0.071521, abs=5e-7)
    assert 0.0653 + st.hoeffding(10_000, one_sided=True) == pytest.approx(0.077539, abs=5e-7)
    # a one-sided 95 % limit is the upper end of a two-sided 90 % interval
    assert st.clopper_pearson(653, 10_000, level=0.9)[1] == pytest.approx(0.069508, abs=5e-7)
    assert st.chernoff_upper(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)  # closed form
    assert st.chernoff_upper(100, 100) == 1.0


@pytest.mark.parametrize(
    ("b", "c", "exact", "mid_p"),
    [
        (120, 90, 0.045114, 0.038643),
        (9, 1, 0.021484, 0.011719),
        (25, 25, 1.0, 0.887725),
        (310, 280, 0.232485, None),
        (5, 0, 0.0625, None),
        (6, 0, 0.03125, None),
        (0, 0, 1.0, None),
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


def test_mcnemar_chi_square() -> None:
    test = st.mcnemar(120, 90)
    assert test.chi2 == pytest.approx(0.038434, abs=5e-7)
    assert test.chi2_corrected == pytest.approx(0.045372, abs=5e-7)


def test_paired_difference_and_non_inferiority() -> None:
    pair = st.paired_difference(120, 90, 10_000)
    assert pair.difference == pytest.approx(0.0030)
    assert pair.standard_error == pytest.approx(0.00144883, abs=5e-9)
    assert pair.interval == pytest.approx((0.000160, 0.005840), abs=5e-7)
    wide = st.paired_difference(310, 280, 10_000)
    assert wide.standard_error == pytest.approx(0.00242881, abs=5e-9)
    assert wide.interval == pytest.approx((-0.001760, 0.007760), abs=5e-7)
    assert st.noninferiority_limit(120, 90, 10_000) == pytest.approx(0.000617, abs=5e-7)


def outcomes(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    second[:b] = False
    first[b : b + c] = False
    return first, second


def test_paired_bootstrap() -> None:
    first, second = outcomes(120, 90, 10_000)
    assert st.discordant(first, second) == (120, 90)
    interval = st.paired_bootstrap(first, second)
    # the upper quantile lies between the attainable values 0.0058 and 0.0059
    assert interval == pytest.approx((0.0002, 0.00585), abs=2.1e-4)
    assert st.paired_bootstrap(first, second) == interval
    swapped = st.paired_bootstrap(second, first)
    assert swapped == pytest.approx((-interval[1], -interval[0]), abs=2.1e-4)


def test_paired_bootstrap_agrees_with_scipy() -> None:
    draws = np.random.default_rng(3)
    first, second = draws.exponential(1.0, 300), draws.exponential(1.2, 300)
    peer = scipy.stats.bootstrap((first - second,), np.mean, n_resamples=5000, method="percentile", rng=draws)
    ours = st.paired_bootstrap(first, second, resamples=5000)
    assert ours == pytest.approx(tuple(peer.confidence_interval), abs=0.02)


def test_adjusted_p_values() -> None:
    p = [0.001, 0.012, 0.02, 0.04, 0.3]
    assert st.holm(p) == pytest.approx([0.005, 0.048, 0.06, 0.08, 0.3])
    assert st.benjamini_hochberg(p) == pytest.approx([0.005, 0.03, 0.033333, 0.05, 0.3], abs=1e-6)
    assert st.bonferroni(p) == pytest.approx([0.005, 0.06, 0.1, 0.2, 1.0])


def test_adjusted_p_values_keep_the_given_order() -> None:
    p = [0.3, 0.001, 0.04, 0.02, 0.02, 0.9]
    for name, ours in [("holm", st.holm), ("fdr_bh", st.benjamini_hochberg), ("bonferroni", st.bonferroni)]:
        assert ours(p) == pytest.approx(multipletests(p, method=name)[1])
        assert ours([]) == []


def test_seeds() -> None:
    five, three = (93.58, 93.41, 93.77, 93.60, 93.49), (93.4, 93.6, 93.1)
    mean = st.mean_of_seeds(five)
    assert (mean.mean, mean.sd, mean.half_width) == pytest.approx((93.57, 0.135093, 0.167740), abs=5e-7)
    mean = st.mean_of_seeds(three)
    assert (mean.mean, mean.sd, mean.half_width) == pytest.approx((93.366667, 0.251661, 0.625161), abs=5e-7)
    assert st.welch(three, (93.0, 93.2, 92.9)) == pytest.approx((1.961161, 3.297561, 0.136360), abs=5e-7)
    other = (93.30, 93.35, 93.42, 93.38, 93.21)
    assert st.paired_t(five, other) == pytest.approx((4.854111, 0.008315), abs=1e-6)
    assert st.sign_test(five, other) == 0.0625


def test_seed_tests_agree_with_scipy() -> None:
    draws = np.random.default_rng(0)
    first, second = list(draws.normal(0.0, 1.0, 6)), list(draws.normal(0.5, 2.0, 6))
    peer = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert st.welch(first, second) == pytest.approx((peer.statistic, peer.df, peer.pvalue))
    paired = scipy.stats.ttest_rel(first, second)
    assert st.paired_t(first, second) == pytest.approx((paired.statistic, paired.pvalue))


def test_coverage_of_clopper_pearson_is_at_least_nominal() -> None:
    # exact coverage by summing the binomial over all outcomes
    n = 30
    intervals = [st.clopper_pearson(k, n) for k in range(n + 1)]
    for p in (0.02, 0.3, 0.5, 0.93):
        weights = scipy.stats.binom.pmf(range(n + 1), n, p)
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
        (lambda: st.paired_t([1.0, 2.0], [0.0, 1.0]), "no spread"),
        (lambda: st.welch([1.0, 1.0], [2.0, 2.0]), "no spread"),
        (lambda: st.discordant([True], [True, False]), "one length"),
        (lambda: st.holm([0.1, math.nan]), "p-values"),
    ],
)
def test_misuse_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UserError, match=message):
        call()
