"""The score of a mixture around quantiles by hand, its limit, its grid, and the two parts of the prior."""

from __future__ import annotations

import math

import pytest
import torch

from prunebench.layers.quantile_prior import NUM_ATOMS, QuantilePrior, mixture_score


def test_three_atoms() -> None:
    score = mixture_score(torch.tensor(0.3, dtype=torch.double), torch.tensor([-1.0, 0, 1], dtype=torch.double), 0.5)
    assert float(score) == pytest.approx(-0.1032435897, abs=1e-10)


def test_a_narrow_mixture_points_to_the_nearest_atom() -> None:
    atoms = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.double)
    values = torch.tensor([-2.0, -0.6, -0.4, 0.3, 0.6, 5.0], dtype=torch.double)
    nearest = torch.tensor([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.double)
    h = 1e-2
    torch.testing.assert_close(mixture_score(values, atoms, h), (nearest - values) / h**2)


def test_the_score_is_the_slope_of_the_density() -> None:
    atoms = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    values = torch.linspace(-3, 3, 11, dtype=torch.double, requires_grad=True)
    log_density = torch.logsumexp(-(values[:, None] - atoms).square() / (2 * 0.4**2), 1).sum()
    (slope,) = torch.autograd.grad(log_density, values)
    torch.testing.assert_close(mixture_score(values.detach(), atoms, 0.4), slope)


def test_atoms_are_quantiles_and_the_bandwidth_is_silverman_s() -> None:
    weights = torch.arange(129, dtype=torch.double).view(3, 43)
    prior = QuantilePrior(weights)
    # of 0 to 128 the quantile q is 128 q
    torch.testing.assert_close(prior.atoms, 128 * (torch.arange(NUM_ATOMS, dtype=torch.double) + 0.5) / 64)
    std = math.sqrt((129**2 - 1) / 12)
    assert prior.bandwidth == pytest.approx(1.06 * std * 64**-0.2)
    assert prior.std == pytest.approx(std)
    assert QuantilePrior(torch.ones(4, 4)).bandwidth == 1e-3


def test_the_grid_is_close_and_ends_where_it_ends() -> None:
    weights = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    prior = QuantilePrior(weights)
    values = torch.linspace(-3, 3, 101, dtype=torch.double)
    exact = mixture_score(values, prior.atoms, prior.bandwidth)
    torch.testing.assert_close(prior.effective_score(values), exact, atol=5e-3, rtol=5e-3)
    ends = prior.effective_score(torch.tensor([-1e3, float(prior.low)], dtype=torch.double))
    assert ends[0] == ends[1] == prior.grid[0] and float(ends[0]) > 0


def test_redundant_weights_are_drawn_to_the_mean_only() -> None:
    weights = torch.tensor([1.0, 3.0, 5.0, 7.0])
    prior = QuantilePrior(weights)
    values = torch.tensor([4.0, 9.0])
    effective = torch.tensor([[True, True], [False, False], [True, False]])
    found = prior.score(values, effective)
    kept, redundant = prior.effective_score(values), torch.tensor([0.0, -1.0])  # (4 - 9) / 5
    torch.testing.assert_close(found, torch.stack([kept, redundant, torch.stack([kept[0], redundant[1]])]))
    torch.testing.assert_close(prior.score(values), kept)
