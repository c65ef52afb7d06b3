"""Finite-sample intervals and tests from counts: what a row may claim.

Pure functions of counts, p-values or per-example outcomes. ``k`` correct of ``n`` independent test examples is the
outcome of one fixed predictor; ``family`` is the number of intervals that must hold together (Bonferroni). In a pair,
``b`` counts examples that only the first model gets right, ``c`` those that only the second one does.
Everything is a fraction, an interval is ``(low, high)``, at 95 % unless a level is given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from prunebench.config.arguments import validated
from prunebench.config.ranges import OpenFraction
from prunebench.errors import UserError

Interval = tuple[float, float]

LEVEL = 0.95


# ------------------------------------------------------------------------------------------ one accuracy
@validated
def clopper_pearson(k: int, n: int, level: OpenFraction = LEVEL, family: int = 1) -> Interval:
    """Exact interval of a proportion (Clopper, Pearson 1934): ``family`` of them hold together with ``level``."""
    _check_counts(k, n)
    tail = (1 - level) / family / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))
    return low, high


# ------------------------------------------------------------------------------- two models, one test set
@dataclass(frozen=True)
class McNemar:
    """P-values of "both models are equally accurate": the exact one is conservative, its mid-p version is not."""

    exact: float
    mid_p: float


def mcnemar(b: int, c: int) -> McNemar:
    """McNemar's test (1947): the ``b + c`` discordant examples fall on either side with probability 1/2.

    The mid-p value counts the outcomes that are as extreme as the observed one by half (Fagerland, Lydersen, Laake
    2013): there are two of them, ``b`` and ``c``, and only one if they are equal.
    """
    if min(b, c) < 0:
        raise UserError(f"mcnemar: b and c are counts, got {b} and {c}")
    n, low = b + c, min(b, c)
    if n == 0:
        return McNemar(exact=1.0, mid_p=1.0)
    point = float(stats.binom.pmf(low, n, 0.5))
    exact = min(1.0, 2 * float(stats.binom.cdf(low, n, 0.5)))
    return McNemar(exact=exact, mid_p=1 - point / 2 if b == c else exact - point)


@dataclass(frozen=True)
class Difference:
    """First minus second model: the difference of their accuracies and its two-sided interval."""

    difference: float
    interval: Interval


def paired_difference(b: int, c: int, n: int) -> Difference:
    """Difference ``(b - c) / n`` of two accuracies on the same ``n`` examples, with its score interval (Tango 1998).

    Where few examples differ the normal interval ``d -+ z sqrt(b + c - (b - c)^2 / n) / n`` is far too short, and empty
    where none does; this one keeps its level there (Newcombe 1998), and is the same for many.
    """
    _check_counts(b + c, n)
    z = float(special.ndtri(1 - (1 - LEVEL) / 2))
    return Difference((b - c) / n, (_score_limit(b, c, n, z), -_score_limit(c, b, n, z)))


def noninferiority_limit(b: int, c: int, n: int) -> float:
    """Lower one-sided limit of ``paired_difference``: "no drop beyond m" holds if it is above ``-m``."""
    _check_counts(b + c, n)
    return _score_limit(b, c, n, float(special.ndtri(LEVEL)))


@functools.lru_cache(maxsize=4096)  # a report asks for the same ones again and again
def _score_limit(b: int, c: int, n: int, z: float) -> float:
    """The difference below the observed one whose score test has the value ``z``."""

    def excess(difference: float) -> float:
        # the most likely share of "only the second is right" among all pairs with this difference
        linear = b + c - (2 * n - b + c) * difference
        share = (math.sqrt(max(linear**2 + 8 * n * c * difference * (1 - difference), 0.0)) + linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return (b - c - n * difference) - z * math.sqrt(max(variance, 0.0))

    observed = (b - c) / n
    if observed == -1:
        return observed
    # just below the observed one: there it has no variance if no example differs
    low, high = -1 + 1e-12, observed - 1e-9
    if low >= high or excess(low) * excess(high) >= 0:
        return -1.0  # nearly all of very many pairs differ: no number lies between
    return float(optimize.brentq(excess, low, high, xtol=1e-12))


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """``(b, c)`` of two arrays [n] of per-example correctness."""
    a, z = _pair(first, second)
    return int((a.astype(bool) & ~z.astype(bool)).sum()), int((~a.astype(bool) & z.astype(bool)).sum())


# ----------------------------------------------------------------------------------------- many p-values
def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) for the family-wise error rate, in the given order."""
    values = _p_values(p)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, np.arange(len(p), 0, -1) * values[order])
    return _restore(np.maximum.accumulate(scaled), order)


# ----------------------------------------------------------------------------------------- several seeds
@dataclass(frozen=True)
class Mean:
    """Mean of seeds, sample standard deviation (n - 1) and half-width of Student's interval of the mean."""

    mean: float
    sd: float
    half_width: float


def mean_of_seeds(values: Sequence[float]) -> Mean:
    """Mean of at least two seeds; the interval is about seeds on THIS test set."""
    if len(values) < 2:
        raise UserError(f"mean_of_seeds: needs at least 2 values for a standard deviation, got {len(values)}")
    sd = float(np.std(values, ddof=1))
    return Mean(float(np.mean(values)), sd, _t_quantile(len(values) - 1) * sd / math.sqrt(len(values)))


@functools.cache
def _t_quantile(freedom: int) -> float:
    """Of Student's two-sided interval; asked for once per table cell."""
    return float(stats.t.ppf(1 - (1 - LEVEL) / 2, freedom))


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
