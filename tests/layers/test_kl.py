"""Closed forms and approximations against the exact series, quadrature and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from prunebench.layers import kl


def exact_log_uniform(log_alpha: float) -> float:
    """(E_J[digamma(1/2 + J)] - digamma(1/2)) / 2 with J ~ Poisson(1 / (2 alpha)): 0 at alpha = infinity."""
    rate = 0.5 * math.exp(-log_alpha)
    spread = 12 * math.sqrt(rate) + 40
    counts = np.arange(max(0, math.floor(rate - spread)), math.ceil(rate + spread))
    return 0.5 * float((stats.poisson.pmf(counts, rate) * special.digamma(0.5 + counts)).sum() - special.digamma(0.5))


KNOWN = {-8: 4.635014, -4: 2.625755, -2: 1.544155, -1: 0.914531, 0: 0.426686, 1: 0.173194, 3: 0.024688, 8: 0.000168}


def test_the_exact_series_is_an_expectation_of_the_log_uniform_prior() -> None:
    """KL = E ln|w| - H[q] + const = E ln|1 + sqrt(alpha) eps| - ln(alpha) / 2 + const, by quadrature."""
    for known, value in KNOWN.items():
        assert exact_log_uniform(known) == pytest.approx(value, abs=2e-6)
    for log_alpha in (-2.0, 0.0, 1.0, 3.0):
        root = math.exp(0.5 * log_alpha)
        pole = -1 / root

        def integrand(x: float, root: float = root) -> float:
            return math.log(abs(1 + root * x) + 1e-300) * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

        mean = integrate.quad(integrand, -12, pole, limit=400)[0] + integrate.quad(integrand, pole, 12, limit=400)[0]
        found = mean - 0.5 * log_alpha + kl.LOG_UNIFORM_CONSTANT
        assert found == pytest.approx(exact_log_uniform(log_alpha), abs=1e-5)


def test_molchanov_s_approximation() -> None:
    published = {-8: 4.635899, -4: 2.634208, -2: 1.540533, 0: 0.431239, 1: 0.177970, 3: 0.025420, 8: 0.000168}
    for log_alpha, value in published.items():
        assert kl.log_uniform(torch.tensor(float(log_alpha))).item() == pytest.approx(value, abs=2e-6)
    grid = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    exact = torch.tensor([exact_log_uniform(x) for x in grid.tolist()], dtype=torch.float64)
    error = (kl.log_uniform(grid) - exact).abs()
    assert error.max().item() == pytest.approx(0.009375, abs=1e-5)
    assert grid[error.argmax()].item() == pytest.approx(-3.51, abs=0.02)
    assert (kl.log_uniform(grid).diff() < 0).all()


def test_kingma_s_polynomial_holds_up_to_one() -> None:
    constant = kl.LOG_UNIFORM_CONSTANT
    assert constant == pytest.approx(0.635181, abs=1e-6)
    for log_alpha, value in ((0.0, -0.245709), (-2.0, 0.868872)):
        bare = kl.log_uniform_cubic(torch.tensor(log_alpha, dtype=torch.float64)).item() - constant
        assert bare == pytest.approx(value, abs=1e-5)
    for log_alpha in np.linspace(-8, 0, 81):
        bare = kl.log_uniform_cubic(torch.tensor(log_alpha)).item() - constant
        assert 0.6354 - 1e-4 <= exact_log_uniform(log_alpha) - bare <= 0.6756 + 1e-4
    assert kl.log_uniform_cubic(torch.tensor(2.0, dtype=torch.float64)).item() < -100  # hence alpha <= 1


@pytest.mark.parametrize(
    ("mean", "std", "prior", "value"), [(0.1, 0.05, 0.1, 0.818147), (0.5, 0.2, 1, 1.254438), (0, 1, 1, 0)]
)
def test_gaussian(mean: float, std: float, prior: float, value: float) -> None:
    found = kl.gaussian(torch.tensor(float(mean)), torch.tensor(float(std)), prior).item()
    assert found == pytest.approx(value, abs=2e-6)
    torch_s = torch.distributions.kl_divergence(
        torch.distributions.Normal(float(mean), float(std)), torch.distributions.Normal(0.0, float(prior))
    )
    assert found == pytest.approx(torch_s.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "scale", "value"), [(0.1, 0.05, 0.1, 0.975847), (0.5, 0.2, 1, 1.384448), (0, 1, 1, 0.072093)]
)
def test_laplace(mean: float, std: float, scale: float, value: float) -> None:
    found = kl.laplace(torch.tensor(float(mean)), torch.tensor(float(std)), scale).item()
    assert found == pytest.approx(value, abs=2e-6)
    torch.manual_seed(0)
    weights = mean + std * torch.randn(400_000, dtype=torch.float64)
    prior = torch.distributions.Laplace(0.0, torch.tensor(float(scale), dtype=torch.float64))
    sampled = (kl.gaussian_log_prob(weights, mean, std) - prior.log_prob(weights)).mean().item()
    assert found == pytest.approx(sampled, abs=0.01)


def test_scale_mixture() -> None:
    narrow = math.exp(-6)
    published = {0: 4.390390, 0.001: 4.309222, 0.01: -1.500660, 0.1: -1.617086, 1: -2.112086}
    for weight, value in published.items():
        found = kl.scale_mixture_log_prob(torch.tensor(float(weight)), share=0.5, wide=1.0, narrow=narrow)
        assert found.item() == pytest.approx(value, abs=5e-6)
    other = {"share": 0.25, "wide": math.exp(-1), "narrow": math.exp(-7)}
    for weight, value in {0: 5.794205, 0.01: -1.305602}.items():
        assert kl.scale_mixture_log_prob(torch.tensor(float(weight)), **other).item() == pytest.approx(value, abs=5e-6)
    # the narrow density of 0.5 underflows in float32
    assert torch.exp(kl.gaussian_log_prob(torch.tensor(0.5), 0.0, other["narrow"])) == 0
    assert torch.isfinite(kl.scale_mixture_log_prob(torch.tensor(0.5), **other))
    # per weight, not per layer: the sum over the weights (0, 0.1)
    pair = kl.scale_mixture_log_prob(torch.tensor([0.0, 0.1]), share=0.5, wide=1.0, narrow=narrow).sum()
    assert pair.item() == pytest.approx(2.773304, abs=1e-5)


def test_warmup_of_the_paper() -> None:
    weights = [kl.warmup(epoch, weight=1.0, start=5, length=15) for epoch in range(25)]
    assert weights[:6] == [0.0] * 6
    assert weights[6] == pytest.approx(1 / 15) and weights[19] == pytest.approx(14 / 15)
    assert weights[20:] == [1.0] * 5
    assert [kl.warmup(epoch, weight=0.5, start=0, length=0) for epoch in (0, 9)] == [0.5, 0.5]
    assert [kl.warmup(epoch, weight=0.5, start=2, length=0) for epoch in (1, 2)] == [0.0, 0.5]


@pytest.mark.parametrize(("log_alpha", "expected"), [(-4, 2.000050), (-2, 0.882854), (0, -0.332569), (3, -0.191190)])
def test_bump_form_of_convolutions(log_alpha: float, expected: float) -> None:
    found = kl.log_uniform_conv(torch.tensor(float(log_alpha), dtype=torch.double))
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("log_alpha", "expected"), [(-4, 1.984449), (0, -0.280873)])
def test_bump_form_of_linear_layers(log_alpha: float, expected: float) -> None:
    found = kl.log_uniform_linear(torch.tensor(float(log_alpha), dtype=torch.double))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_where_the_bump_forms_are_lowest_and_how_near_they_are_to_the_cubic_one() -> None:
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.double)
    for form, place, value in ((kl.log_uniform_conv, 1.0334, -0.547125), (kl.log_uniform_linear, 1.7859, -0.700470)):
        found = form(grid)
        assert float(found.min()) == pytest.approx(value, abs=1e-6)
        assert float(grid[found.argmin()]) == pytest.approx(place, abs=2e-4)
    cubic = kl.log_uniform_cubic(torch.tensor([-4.0, 0.0], dtype=torch.double)) - kl.LOG_UNIFORM_CONSTANT
    assert cubic.tolist() == pytest.approx([1.979228, -0.245709], abs=1e-6)
