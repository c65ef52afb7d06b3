"""Finite-sample intervals and tests from counts: what a row may claim.

Pure functions of counts, p-values or per-example outcomes. ``k`` correct of ``n`` independent test examples is the
outcome of one fixed predictor; ``family`` is the number of intervals that must hold together (Bonferroni). In a pair,
``b`` counts examples that only the first model gets right, ``c`` those that only the second one does.
Everything is a fraction, an interval is ``(low, high)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from prunebench.config.arguments import fit
from prunebench.config.ranges import OpenFraction
from prunebench.errors import UserError

Interval = tuple[float, float]


# ------------------------------------------------------------------------------------------ one accuracy
def clopper_pearson(k: int, n: int, level: float = 0.95, family: int = 1) -> Interval:
    """Exact interval of a proportion (Clopper, Pearson 1934): ``family`` of them hold together with ``level``."""
    _check_counts(k, n)
    tail = _alpha(level) / family / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval of a proportion (1927): narrow, not guaranteed; for plots only."""
    _check_counts(k, n)
    z = float(special.ndtri(1 - _alpha(level) / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def hoeffding(n: int, level: float = 0.95, family: int = 1, one_sided: bool = False) -> float:
    """Half-width for the mean of ``n`` values in [0, 1], whatever their distribution (Hoeffding 1963)."""
    _check_counts(0, n)
    return math.sqrt(math.log((1 if one_sided else 2) * family / _alpha(level)) / (2 * n))


def hoeffding_samples(half_width: float, level: float = 0.95) -> int:
    """Smallest ``n`` whose two-sided ``hoeffding`` half-width is at most ``half_width``."""
    return math.ceil(math.log(2 / _alpha(level)) / (2 * half_width**2))


def hoeffding_family(half_width: float, n: int, level: float = 0.95) -> int:
    """Largest number of rows whose two-sided intervals hold together within ``half_width``."""
    return math.floor(_alpha(level) / 2 * math.exp(2 * n * half_width**2))


def chernoff_upper(errors: int, n: int, level: float = 0.95) -> float:
    """Upper limit of an error rate: the largest ``p`` with ``n kl(errors / n, p) <= ln(1 / (1 - level))``."""
    _check_counts(errors, n)
    rate, bound = errors / n, math.log(1 / _alpha(level)) / n
    low, high = rate, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        divergence = float(special.rel_entr(rate, middle) + special.rel_entr(1 - rate, 1 - middle))
        low, high = (middle, high) if divergence <= bound else (low, middle)
    return low


# ------------------------------------------------------------------------------- two models, one test set
@dataclass(frozen=True)
class McNemar:
    """P-values of "both models are equally accurate": the exact one is conservative, the others are not."""

    exact: float
    mid_p: float
    chi2: float
    chi2_corrected: float


def mcnemar(b: int, c: int) -> McNemar:
    """McNemar's test (1947): the ``b + c`` discordant examples fall on either side with probability 1/2."""
    if min(b, c) < 0:
        raise UserError(f"mcnemar: b and c are counts, got {b} and {c}")
    n, low = b + c, min(b, c)
    if n == 0:
        return McNemar(exact=1.0, mid_p=1.0, chi2=1.0, chi2_corrected=1.0)
    point = float(stats.binom.pmf(low, n, 0.5))
    exact = min(1.0, 2 * float(stats.binom.cdf(low, n, 0.5)))
    corrected = max(0, abs(b - c) - 1) ** 2 / n
    return McNemar(
        exact=exact,
        mid_p=1 - point if b == c else exact - point,
        chi2=float(stats.chi2.sf((b - c) ** 2 / n, 1)),
        chi2_corrected=float(stats.chi2.sf(corrected, 1)),
    )


@dataclass(frozen=True)
class Difference:
    """First minus second model: accuracy difference, its standard error, its two-sided interval."""

    difference: float
    standard_error: float
    interval: Interval


def paired_difference(b: int, c: int, n: int, level: float = 0.95) -> Difference:
    """Difference ``(b - c) / n`` of two accuracies on the same ``n`` examples, with its normal interval."""
    _check_counts(b + c, n)
    difference = (b - c) / n
    error = math.sqrt(b + c - (b - c) ** 2 / n) / n
    half = float(special.ndtri(1 - _alpha(level) / 2)) * error
    return Difference(difference, error, (difference - half, difference + half))


def noninferiority_limit(b: int, c: int, n: int, level: float = 0.95) -> float:
    """Lower one-sided limit of ``paired_difference``: "no drop beyond m" holds if it is above ``-m``."""
    pair = paired_difference(b, c, n)
    return pair.difference - float(special.ndtri(level)) * pair.standard_error


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """``(b, c)`` of two arrays [n] of per-example correctness."""
    a, z = _pair(first, second)
    return int((a.astype(bool) & ~z.astype(bool)).sum()), int((~a.astype(bool) & z.astype(bool)).sum())


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean difference of per-example scores [n]; both models share each resample."""
    a, z = _pair(first, second)
    differences = a.astype(float) - z.astype(float)
    draws = np.random.default_rng(seed)
    # one resample at a time: a table of all of them would take gigabytes
    means = [differences[draws.integers(len(a), size=len(a))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [_alpha(level) / 2, 1 - _alpha(level) / 2])
    return float(low), float(high)


# ----------------------------------------------------------------------------------------- many p-values
def bonferroni(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the given order."""
    return [min(1.0, len(p) * value) for value in _p_values(p)]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) for the family-wise error rate, in the given order."""
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, np.arange(len(p), 0, -1) * values[order])
    return _restore(np.maximum.accumulate(scaled), order)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's step-up adjustment (1995) for the false discovery rate, in the given order."""
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, len(p) / np.arange(1, len(p) + 1) * values[order])
    return _restore(np.minimum.accumulate(scaled[::-1])[::-1], order)


# ----------------------------------------------------------------------------------------- several seeds
@dataclass(frozen=True)
class Mean:
    """Mean of seeds, sample standard deviation (n - 1) and half-width of Student's interval of the mean."""

    mean: float
    sd: float
    half_width: float


def mean_of_seeds(values: Sequence[float], level: float = 0.95) -> Mean:
    """Mean of at least two seeds; the interval is about seeds on THIS test set."""
    if len(values) < 2:
        raise UserError(f"mean_of_seeds: needs at least 2 values for a standard deviation, got {len(values)}")
    sd = float(np.std(values, ddof=1))
    t = float(stats.t.ppf(1 - _alpha(level) / 2, len(values) - 1))
    return Mean(float(np.mean(values)), sd, t * sd / math.sqrt(len(values)))


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Welch's test (1947) of two independent sets of seeds: t, degrees of freedom, two-sided p."""
    a, z = mean_of_seeds(first), mean_of_seeds(second)
    va, vz = a.sd**2 / len(first), z.sd**2 / len(second)
    if va + vz == 0:
        raise UserError("welch: both sets of seeds have no spread, so there is nothing to test against")
    t = (a.mean - z.mean) / math.sqrt(va + vz)
    df = (va + vz) ** 2 / (va**2 / (len(first) - 1) + vz**2 / (len(second) - 1))
    return t, df, float(2 * stats.t.sf(abs(t), df))


def paired_t(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Paired t-test of matched seeds: t, two-sided p."""
    a, z = _pair(first, second)
    pair = mean_of_seeds([float(d) for d in a - z])
    if pair.sd == 0:
        raise UserError("paired_t: all differences are equal, so there is no spread to test against")
    t = pair.mean / (pair.sd / math.sqrt(len(a)))
    return t, float(2 * stats.t.sf(abs(t), len(a) - 1))


def sign_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided sign test of matched seeds, ties left out; 5 seeds can't go below p = 0.0625."""
    a, z = _pair(first, second)
    return mcnemar(int((a > z).sum()), int((a < z).sum())).exact


def _alpha(level: float) -> float:
    return 1 - float(fit(level, OpenFraction, "level"))


def _check_counts(k: int, n: int) -> None:
    if n < 1 or not 0 <= k <= n:
        raise UserError(f"statistics: needs 0 <= k <= n and n >= 1, got k={k} and n={n}")


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, z = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != z.shape or not len(a):
        raise UserError(f"statistics: a pair needs two arrays of one length, got shapes {a.shape} and {z.shape}")
    return a, z


def _p_values(p: Sequence[float]) -> np.ndarray:
    values = np.asarray(p, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise UserError(f"statistics: p-values must be in [0, 1], got {list(p)}")
    return values


def _restore(adjusted: np.ndarray, order: np.ndarray) -> list[float]:
    result = np.empty(len(order))
    result[order] = adjusted
    return [float(value) for value in result]
