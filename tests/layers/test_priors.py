"""Priors: densities integrate to one, and draws have their moments."""

from __future__ import annotations

import pytest
import torch

from prunebench.layers.priors import (
    GaussianMixturePrior,
    GaussianPrior,
    LaplaceMixturePrior,
    LaplacePrior,
    Prior,
)

PRIORS = [
    (GaussianPrior(std=0.3), 0.3**2),
    (LaplacePrior(scale=0.3), 2 * 0.3**2),
    (GaussianMixturePrior(share=0.25, wide=1.0, narrow=0.1), 0.25 + 0.75 * 0.01),
    (LaplaceMixturePrior(share=0.25, wide=0.4, narrow=0.1), 2 * (0.25 * 0.16 + 0.75 * 0.01)),
]
over = pytest.mark.parametrize(("prior", "variance"), PRIORS, ids=lambda item: type(item).__name__)


@over
def test_the_density_has_mass_one_and_the_variance(prior: Prior, variance: float) -> None:
    w = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = prior.log_prob(w).exp()
    assert torch.trapezoid(density, w).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * w**2, w).item() == pytest.approx(variance, rel=1e-5)


@over
def test_draws_follow_it(prior: Prior, variance: float) -> None:
    like = torch.empty(400_000)
    drawn = prior.draw(like, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, prior.draw(like, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, prior.draw(like, torch.Generator().manual_seed(1)))
    assert drawn.mean().item() == pytest.approx(0, abs=5 * (variance / len(drawn)) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.02)
    # the share within one deviation is that of the density
    w = torch.linspace(-(variance**0.5), variance**0.5, 20_001, dtype=torch.float64)
    share = torch.trapezoid(prior.log_prob(w).exp(), w).item()
    assert (drawn.abs() < variance**0.5).double().mean().item() == pytest.approx(share, abs=4e-3)
