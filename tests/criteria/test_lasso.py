"""LASSO from second moments: the closed form, the end points, the design that is never formed, the search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as Reference
from torch import Tensor

from prunebench.criteria.lasso import Lasso, Moments, channel_moments, select_channels


def orthogonal(sizes: tuple[float, ...], rows: int = 12) -> Moments:
    """Z'Z = rows * diag(sizes^2), y = Z 1."""
    gram = rows * np.diag(np.square(sizes))
    return Moments(gram, gram.sum(1), rows)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.1, (0.6, 0.9, 0.975)), (0.5, (0, 0.5, 0.875)), (1.5, (0, 0, 0.625)), (4.1, (0, 0, 0))],
)
def test_orthogonal_design(alpha: float, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(Lasso(orthogonal((0.5, 1, 2)))(alpha), expected, atol=1e-6)


def test_all_at_no_penalty_and_none_at_the_largest() -> None:
    moments = orthogonal((0.5, 1, 2, 3))
    lasso = Lasso(moments)
    assert lasso.largest == pytest.approx(np.abs(moments.cross).max() / moments.rows) == 9
    counts = [np.count_nonzero(lasso(alpha)) for alpha in (1e-9, 0.3, 2, 5, 8.9, 9, 20)]
    assert counts == [4, 3, 2, 1, 1, 0, 0]


def samples(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    windows = torch.randn(60, 6, 9, generator=draws) + 0.4  # like what a ReLU leaves, it has a mean
    weight = torch.randn(5, 6, 9, generator=draws) + 0.1
    return windows, weight, torch.einsum("act,oct->ao", windows, weight) + torch.randn(60, 5, generator=draws)


@pytest.mark.parametrize("intercept", [False, True])
def test_moments_are_those_of_the_design(intercept: bool) -> None:
    windows, weight, targets = samples()
    design = torch.einsum("act,oct->aoc", windows, weight).reshape(-1, 6).double().numpy()
    y = targets.reshape(-1).double().numpy()
    moments = channel_moments(windows, weight, targets, intercept=intercept)
    z, v = (design - design.mean(0), y - y.mean()) if intercept else (design, y)
    np.testing.assert_allclose(moments.gram, z.T @ z, rtol=1e-4)
    np.testing.assert_allclose(moments.cross, z.T @ v, rtol=1e-4)
    assert moments.rows == 300
    for alpha in (0.05, 1.0, 5.0):
        reference = Reference(alpha=alpha, fit_intercept=intercept, tol=1e-10, max_iter=100_000).fit(design, y)
        np.testing.assert_allclose(Lasso(moments)(alpha), reference.coef_, atol=1e-4)


def test_exactly_so_many_stay_and_the_weakest_go() -> None:
    # with an orthogonal design coefficients fall in the order of the variances
    moments = orthogonal((3, 0.1, 2, 0.5, 1))
    assert [select_channels(moments, number) for number in (1, 2, 3, 4)] == [[0], [0, 2], [0, 2, 4], [0, 2, 3, 4]]


def test_up_to_a_tenth_more_as_in_the_official_code() -> None:
    draws = np.random.default_rng(0)
    z = draws.normal(size=(400, 40)) * np.linspace(0.5, 2, 40)
    moments = Moments(z.T @ z, z.T @ z.sum(1), 400)
    for number in (10, 20, 30):
        assert len(select_channels(moments, number)) == number
        assert number <= len(select_channels(moments, number, max_excess=0.1)) <= int(1.1 * number)


def test_channels_that_enter_together_or_never() -> None:
    equal = Moments(np.eye(4), np.ones(4), 1)  # the path jumps from 4 to 0
    assert select_channels(equal, 2) == [0, 1]
    twins = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])  # singular, and one never varies
    assert set(select_channels(Moments(twins, np.array([1.0, 1, 0]), 1), 2)) == {0, 1}
    nothing = Moments(np.zeros((3, 3)), np.zeros(3), 1)
    assert len(select_channels(nothing, 2)) == 2
