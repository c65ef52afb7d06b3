"""Jensen-Shannon divergences: printed values, quadrature, Monte Carlo, bounds and symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prunebench.layers import jensen_shannon as js
from prunebench.layers import kl

Q, Q2 = (0.5, 0.2), (1.0, 0.5)
"""Mean and deviation of two posteriors; the prior is N(0, 1)."""


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def density(mean: float, std: float) -> Callable[[Tensor], Tensor]:
    return lambda value: kl.gaussian_log_prob(value, mean, std)


def geometric(q: tuple[float, float], p: tuple[float, float], alpha: float) -> float:
    return js.geometric(*map(number, (*q, *p)), alpha=alpha).item()


def arithmetic(q: tuple[float, float], p: tuple[float, float], alpha: float) -> float:
    """By quadrature over the densities themselves, in linear space."""
    low, high = (side(m + sign * 12 * s for m, s in (q, p)) for side, sign in ((min, -1), (max, 1)))
    w = torch.linspace(low, high, 100_001, dtype=torch.float64)
    at_q, at_p = density(*q)(w).exp(), density(*p)(w).exp()
    middle = alpha * at_q + (1 - alpha) * at_p

    def divergence(of: Tensor) -> float:
        return torch.trapezoid(torch.where(of > 1e-300, of * (of / middle).log(), 0.0), w).item()

    return (1 - alpha) * divergence(at_q) + alpha * divergence(at_p)


@pytest.mark.parametrize(
    ("q", "alpha", "expected"),
    [
        (Q, 0.0, 1.254438), (Q, 0.2249, 0.786111), (Q, 0.25, 0.896043), (Q, 0.5, 3.154648), (Q, 0.75, 7.384926),
        (Q, 1.0, 13.515562), (Q2, 0.25, 0.314829), (Q2, 0.5, 0.594678), ((20.0, 1.0), 0.3, 74.0),
    ],
)  # fmt: skip
def test_the_geometric_one_of_the_specification(q: tuple[float, float], alpha: float, expected: float) -> None:
    assert geometric(q, (0.0, 1.0), alpha) == pytest.approx(expected, abs=1e-6)


def test_the_geometric_mean_itself() -> None:
    # alpha = 1/4: precision 0.25 / 0.04 + 0.75 = 7, mean 0.25 * 0.5 / 0.04 / 7
    mean, std = 3.125 / 7, 7**-0.5
    assert (round(mean, 6), round(std, 6)) == (0.446429, 0.377964)
    by_definition = 0.75 * kl_between(Q, (mean, std)) + 0.25 * kl_between((0.0, 1.0), (mean, std))
    assert geometric(Q, (0.0, 1.0), 0.25) == pytest.approx(by_definition, abs=1e-12)


def kl_between(first: tuple[float, float], second: tuple[float, float]) -> float:
    (m, s), (n, t) = first, second
    return math.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def test_it_is_both_directions_and_the_overlap() -> None:
    overlap = js.log_overlap(*map(number, (*Q2, 0.0, 1.0)), alpha=0.25).item()
    assert overlap == pytest.approx(-0.320807, abs=1e-6)
    forward, backward = kl_between(Q2, (0.0, 1.0)), kl_between((0.0, 1.0), Q2)
    assert forward == pytest.approx(0.818147, abs=1e-6)
    assert backward == pytest.approx(2.806853, abs=1e-6)
    expected = 0.5625 * forward + 0.0625 * backward + overlap
    assert geometric(Q2, (0.0, 1.0), 0.25) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2249, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("q", [Q, Q2, (0.3, 0.05), (0.0, 0.9)])
def test_the_overlap_with_any_prior_is_that_with_a_gaussian_one(q: tuple[float, float], alpha: float) -> None:
    mean, std = map(number, q)
    found = js.log_overlap_of(mean, std, density(0.0, 1.0), alpha=alpha)
    closed = js.log_overlap(mean, std, 0.0, 1.0, alpha=alpha)
    assert found.item() == pytest.approx(closed.item(), abs=2e-3 if alpha == 0.1 else 1e-5)


def test_the_overlap_with_a_laplace_prior_by_quadrature() -> None:
    mean, std = map(number, (0.5, 0.1))
    w = torch.linspace(-3, 4, 200_001, dtype=torch.float64)

    def log_p(value: Tensor) -> Tensor:
        return -value.abs() / 0.7 - math.log(1.4)

    exact = torch.trapezoid((0.3 * density(0.5, 0.1)(w) + 0.7 * log_p(w)).exp(), w).log().item()
    assert js.log_overlap_of(mean, std, log_p, alpha=0.3).item() == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(
    ("q", "alpha", "expected"),
    [(Q, 0.2249, 0.600197), (Q, 0.5, 0.329905), (Q2, 0.25, 0.378816), (Q2, 0.5, 0.223984)],
)
def test_the_arithmetic_one_by_quadrature_and_by_a_million_draws(
    q: tuple[float, float], alpha: float, expected: float
) -> None:
    assert arithmetic(q, (0.0, 1.0), alpha) == pytest.approx(expected, abs=1e-6)
    assert sampled(js.sampled_arithmetic, q, alpha) == pytest.approx(expected, abs=1e-3)


def sampled(function: Callable[..., Tensor], q: tuple[float, float], alpha: float, num: int = 1_000_000) -> float:
    """A mean over draws that leave nothing to chance: the middle of each of ``num`` slices of equal probability."""
    middle = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    normal = torch.special.ndtri(middle)
    return function(q[0] + q[1] * normal, normal, density(*q), density(0.0, 1.0), alpha=alpha).mean().item()


@pytest.mark.parametrize("alpha", [0.0, 0.2249, 0.5, 1.0])
def test_draws_of_the_geometric_one_leave_out_the_overlap(alpha: float) -> None:
    overlap = js.log_overlap(*map(number, (*Q, 0.0, 1.0)), alpha=alpha).item()
    assert sampled(js.sampled_geometric, Q, alpha) == pytest.approx(geometric(Q, (0.0, 1.0), alpha) - overlap, abs=2e-3)


def test_random_draws_are_right_on_average() -> None:
    draws = torch.Generator().manual_seed(0)
    noise, prior = torch.randn(2, 1_000_000, dtype=torch.float64, generator=draws)
    found = js.sampled_arithmetic(0.5 + 0.2 * noise, prior, density(*Q), density(0.0, 1.0), alpha=0.5)
    assert abs(found.mean().item() - 0.329905) < 4 * found.std().item() / 1000 < 2e-3


def test_far_away_the_arithmetic_one_is_at_its_bound_and_the_geometric_one_has_none() -> None:
    far, prior = torch.full((1,), 20.0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    found = js.sampled_arithmetic(far, prior, density(20.0, 1.0), density(0.0, 1.0), alpha=0.3).item()
    assert js.arithmetic_bound(0.3) == pytest.approx(0.949783, abs=1e-6)
    assert found == pytest.approx(0.949783, abs=1e-6)
    assert arithmetic((20.0, 1.0), (0.0, 1.0), 0.3) == pytest.approx(0.949783, abs=1e-6)
    assert js.arithmetic_bound(0.5) == pytest.approx(math.log(2))
    narrow = js.sampled_arithmetic(
        torch.tensor([5.0]), torch.tensor([0.1]), density(5.0, 1e-5), density(0.0, 0.1), alpha=0.5
    )
    assert narrow.item() == pytest.approx(math.log(2), rel=1e-5)  # in float32, where the densities underflow


@pytest.mark.parametrize("divergence", [geometric, arithmetic])
def test_one_half_is_symmetric(divergence: Callable[..., float]) -> None:
    assert divergence(Q2, (0.0, 1.0), 0.5) == pytest.approx(divergence((0.0, 1.0), Q2, 0.5), abs=1e-9)
    assert divergence(Q2, (0.0, 1.0), 0.3) == pytest.approx(divergence((0.0, 1.0), Q2, 0.7), abs=1e-9)
    assert divergence(Q2, (0.0, 1.0), 0.3) != pytest.approx(divergence(Q2, (0.0, 1.0), 0.7), abs=1e-2)


@pytest.mark.parametrize("alpha", [0.0, 0.2249, 0.5, 0.8, 1.0])
def test_nothing_between_equals(alpha: float) -> None:
    assert geometric((0.0, 0.1), (0.0, 0.1), alpha) == pytest.approx(0, abs=1e-14)
    assert geometric(Q, Q, alpha) == pytest.approx(0, abs=1e-14)
    drawn, prior = torch.randn(2, 50, dtype=torch.float64)
    same = density(0.0, 1.0)
    found = js.sampled_arithmetic(drawn, prior, same, same, alpha=alpha)
    assert found.abs().max().item() < 1e-12


def test_alpha_0_is_kl_in_value_and_gradient() -> None:
    draws = torch.Generator().manual_seed(0)
    mean = torch.randn(100, dtype=torch.float64, generator=draws).requires_grad_()
    std = torch.rand(100, dtype=torch.float64, generator=draws).add(0.01).requires_grad_()
    both = (js.geometric(mean, std, 0.0, 0.1, alpha=0.0), kl.gaussian(mean, std, 0.1))
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), (mean, std)) for value in both]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_arithmetic_one_reach_densities_and_draws() -> None:
    """Through the draw and through both densities: against differences of the exact divergence."""
    num, eps = 200_000, 1e-4
    normal = torch.special.ndtri((torch.arange(num, dtype=torch.float64) + 0.5) / num)
    mean, std = number(1.0).requires_grad_(), number(0.5).requires_grad_()
    value = js.sampled_arithmetic(
        mean + std * normal, normal, lambda w: kl.gaussian_log_prob(w, mean, std), density(0.0, 1.0), alpha=0.25
    )
    found = torch.autograd.grad(value.mean(), (mean, std))
    for gradient, (dm, ds) in zip(found, ((eps, 0), (0, eps)), strict=True):
        up, down = (arithmetic((1.0 + s * dm, 0.5 + s * ds), (0.0, 1.0), 0.25) for s in (1, -1))
        assert gradient.item() == pytest.approx((up - down) / (2 * eps), abs=2e-3)


def test_more_regularisation_than_kl_from_a_ratio_on() -> None:
    """(1 - a)^2 + a^2 r > 1 for r > (2 - a) / a: 7.893 at a = 0.2249; without the overlap."""
    assert round((2 - 0.2249) / 0.2249, 3) == 7.893
    for q, more in ((Q, True), (Q2, False)):  # ratios 10.77 and 3.43
        forward, backward = kl_between(q, (0.0, 1.0)), kl_between((0.0, 1.0), q)
        unnormalised = (
            geometric(q, (0.0, 1.0), 0.2249) - js.log_overlap(*map(number, (*q, 0.0, 1.0)), alpha=0.2249).item()
        )
        assert (backward / forward > 7.893) == (unnormalised > forward) == more
