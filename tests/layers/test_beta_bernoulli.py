"""Beta-Bernoulli masks: expectation, KL and samplers against closed forms, quadrature and counting."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate

from prunebench.layers.beta_bernoulli import (
    BetaBernoulliMask,
    divergence,
    draw_rate,
    expected_rate,
    soften,
)

PRIOR = 1e-4


def shape(raw_a: float, raw_b: float) -> tuple[torch.Tensor, torch.Tensor]:
    raw = torch.tensor([raw_a, raw_b], dtype=torch.float64)
    a, b = F.softplus(raw)
    return a, b


def mask(units: int = 3, raw_a: float = -1.0, raw_b: float = 0.5413, **options: float) -> BetaBernoulliMask:
    return BetaBernoulliMask(units, raw_a=raw_a, raw_b=raw_b, **{"temperature": 0.1, "threshold": 1e-3, **options})


@pytest.mark.parametrize(
    ("raw_a", "raw_b", "a", "b", "mean"),
    [(-1, 0.5413, 0.313262, 0.999984, 0.238541), (2, 0.5413, 2.126928, 0.999984, 0.680200),
     (0, 3.0, 0.693147, 3.048587, 0.157954)],
)  # fmt: skip
def test_expected_rates(raw_a: float, raw_b: float, a: float, b: float, mean: float) -> None:
    found = shape(raw_a, raw_b)
    assert [float(value) for value in found] == pytest.approx([a, b], abs=1e-6)
    assert float(expected_rate(*found)) == pytest.approx(mean, abs=1e-6)
    # the same integral over the quantiles
    one, two = (float(value) for value in found)
    by_quadrature, _ = integrate.quad(lambda u: (1 - u ** (1 / two)) ** (1 / one), 0, 1)
    assert float(expected_rate(*found)) == pytest.approx(by_quadrature, rel=1e-6)


def test_at_b_of_one_the_threshold_is_crossed_where_it_says() -> None:
    a = torch.tensor([0.001001, 0.5, 3.0])
    torch.testing.assert_close(expected_rate(a, torch.ones(3)).float(), a / (1 + a))
    edge = -6.90625
    assert float(shape(edge, 0.5413)[0]) == pytest.approx(0.001001, abs=1e-6)
    kept = [mask(1, raw_a=edge + shift, raw_b=math.log(math.e - 1)).num_active() for shift in (-0.01, 0.01)]
    assert kept == [0, 1]


def test_at_the_smallest_a_the_rate_is_still_right() -> None:
    """ln Gamma(1 + 1/a) is about 2e5 there, and float32 steps by 0.016."""
    a = float(F.softplus(torch.tensor(-10.0)))
    found = mask(1, raw_a=-50.0, raw_b=math.log(math.e - 1), threshold=0.0).rates()
    assert float(found) == pytest.approx(a / (1 + a), rel=1e-5)


@pytest.mark.parametrize(
    ("raw_a", "raw_b", "nats"),
    [(-1, 0.5413, 7.049953), (2, 0.5413, 8.965076), (-6, 0.5413, 2.249505), (0, 3.0, 7.439763), (-8, 2.0, 0.347893)],
)
def test_kl_is_the_integral(raw_a: float, raw_b: float, nats: float) -> None:
    a, b = shape(raw_a, raw_b)
    assert float(divergence(a, b, PRIOR)) == pytest.approx(nats, abs=2e-6)
    one, two = float(a), float(b)

    def integrand(u: float) -> float:
        # ln q - ln p at the quantile u, written with t = pi^a
        t = 1 - u ** (1 / two)
        log_pi = math.log(t) / one
        log_q = math.log(one * two) + (one - 1) * log_pi + (two - 1) * math.log1p(-t)
        return log_q - (math.log(PRIOR) + (PRIOR - 1) * log_pi)

    by_quadrature, _ = integrate.quad(integrand, 0, 1, limit=200)
    assert float(divergence(a, b, PRIOR)) == pytest.approx(by_quadrature, rel=1e-4)


def test_kl_is_zero_at_the_prior_and_grows_from_there() -> None:
    assert float(divergence(torch.tensor(PRIOR), torch.tensor(1.0), PRIOR)) == pytest.approx(0.0, abs=1e-6)
    a = torch.logspace(-4, 1, 30, dtype=torch.float64)
    along = divergence(a, torch.ones_like(a), PRIOR)
    assert bool((along >= -1e-9).all()) and bool((along.diff() > 0).all())
    grid = torch.cartesian_prod(a, torch.logspace(-2, 1.5, 30, dtype=torch.float64))
    assert bool((divergence(grid[:, 0], grid[:, 1], PRIOR) >= -1e-9).all())
    at = torch.tensor(0.1, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(at, torch.tensor(1.0), PRIOR), at)
    assert float(slope) == pytest.approx(9.990, abs=1e-3)


def test_samplers_by_hand() -> None:
    u, two, one, three = torch.tensor(0.25), torch.tensor(2.0), torch.tensor(1.0), torch.tensor(3.0)
    assert float(draw_rate(two, one, u)) == pytest.approx(0.866025, abs=1e-6)
    assert float(draw_rate(two, three, u)) == pytest.approx(0.608309, abs=1e-6)
    cases = {(0.3, 0.7): 0.5, (0.3, 0.5): 2.0900e-4, (0.7, 0.4): 0.988089, (0.3, 0.6): 0.0119108}
    for (pi, v), z in cases.items():
        assert float(soften(torch.tensor(pi).double(), torch.tensor(v).double(), 0.1)) == pytest.approx(z, rel=1e-4)


def test_the_chance_of_a_mask_above_one_half_is_its_rate() -> None:
    pi = torch.tensor([0.05, 0.3, 0.9])
    z = soften(pi, torch.rand(200_000, 3), 0.1)
    assert (z > 0.5).float().mean(0).tolist() == pytest.approx(pi.tolist(), abs=0.004)
    assert bool(((z > 0.01) & (z < 0.99)).any()), "they are soft and never rounded"


def test_drawn_rates_have_the_expected_mean() -> None:
    built = mask(20_000, raw_a=0.0, raw_b=3.0)
    drawn = draw_rate(*built.shape(), torch.rand(20_000)).detach()
    assert float(drawn.mean()) == pytest.approx(0.157954, abs=0.006)


def test_one_rate_for_the_batch_and_a_mask_for_each_example() -> None:
    built = mask(40, raw_a=2.0)
    z = built.draw(4_000)
    assert z.shape == (4_000, 40) and not torch.equal(z[0], z[1])
    shares = (z > 0.5).float().mean(0)
    assert float(shares.std()) > 0.1, "with a rate for each example all columns would have the same mean"
    gradients = torch.autograd.grad(z.sum(), list(built.parameters()))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


def test_evaluation_scales_and_drops() -> None:
    built = mask(3).eval()
    with torch.no_grad():
        built.raw_a[1] = -9.0
    x = torch.ones(2, 3, 2, 2)
    found = built(x)
    assert found[:, 0].unique().tolist() == pytest.approx([0.238541], abs=1e-6)
    assert found[:, 1].unique().tolist() == [0.0] and built.num_active() == 2
    assert built.train()(x).shape == x.shape and not torch.equal(built(x), built(x))


@pytest.mark.parametrize("raw_a", [-60.0, -10.0, 0.0, 60.0])
@pytest.mark.parametrize("raw_b", [-60.0, 0.0, 80.0])
def test_nothing_is_infinite_at_the_ends(raw_a: float, raw_b: float) -> None:
    built = mask(50, raw_a=raw_a, raw_b=raw_b)
    total = built(torch.randn(8, 50)).sum() + built.divergence(PRIOR)
    gradients = torch.autograd.grad(total, list(built.parameters()))
    assert bool(total.isfinite()) and all(bool(g.isfinite().all()) for g in gradients)
    assert bool(built.eval()(torch.ones(1, 50)).isfinite().all())
