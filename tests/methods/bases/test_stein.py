"""SVGD directions by hand, where particles stop, and what no kernel changes (numbers of the specification)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from prunebench.methods.bases.stein import full_repulsion, median_bandwidth, squared_distances, stein_direction


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_two_particles_and_the_median_rule() -> None:
    particles = column(0, 1)
    distances = squared_distances(particles)
    h = float(median_bandwidth(distances))
    assert h == pytest.approx(0.9102392266, abs=1e-10) == 1 / math.log(3)
    assert float(torch.exp(-distances / h)[0, 1]) == pytest.approx(1 / 3, abs=1e-12)
    phi = stein_direction(particles, -particles)
    torch.testing.assert_close(phi, column(-0.5328707629, -0.1337959038), atol=1e-10, rtol=0)


def test_three_particles_under_a_fixed_bandwidth() -> None:
    particles = column(0, 1, 3)
    phi = stein_direction(particles, -particles, bandwidth=1.0)
    torch.testing.assert_close(phi, column(-0.3682496706, -0.1308168633, -0.9814375415), atol=1e-10, rtol=0)


def test_one_particle_climbs_the_gradient() -> None:
    assert stein_direction(column(2), -column(2)).item() == -2
    assert stein_direction(column(2), -column(2), repulsion=7.0).item() == -2


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Thousands of tiny operations: a second thread on a busy machine makes them a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settled(dimensions: int, number: int, repulsion: float) -> float:
    """Variance of a coordinate after 3000 steps of 0.1 towards N(0, I), from N(3, 4)."""
    draws = torch.Generator().manual_seed(0)
    particles = 3 + 2 * torch.randn(number, dimensions, generator=draws, dtype=torch.float64)
    for _ in range(3000):
        particles = particles + 0.1 * stein_direction(particles, -particles, repulsion=repulsion)
    return float(particles.var(0).mean())


@pytest.mark.parametrize(
    ("dimensions", "number", "repulsion", "variance"),
    [
        (1, 50, 1.0, 0.956),
        (100, 10, 1.0, math.log(11) / 100),
        (1000, 10, 1.0, math.log(11) / 1000),
        (100, 10, 100.0, 2.3979),
        (100, 10, full_repulsion(100, 10), 1.0),
        (1000, 10, full_repulsion(1000, 10), 1.0),
        (100, 4, full_repulsion(100, 4), 1.0),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_where_particles_around_a_gaussian_stop(
    dimensions: int, number: int, repulsion: float, variance: float
) -> None:
    assert settled(dimensions, number, repulsion) == pytest.approx(variance, rel=1e-3)


@pytest.mark.usefixtures("one_thread")
def test_with_more_particles_than_directions_the_variance_is_near_one() -> None:
    # 0.906 in the specification; it moves by 0.01 with the start
    assert settled(10, 20, full_repulsion(10, 20)) == pytest.approx(0.906, abs=0.012)


def test_repulsion_adds_up_to_nothing_and_the_direction_turns_with_the_space() -> None:
    draws = torch.Generator().manual_seed(3)
    particles, scores = torch.randn(2, 6, 5, generator=draws, dtype=torch.float64)
    push = stein_direction(particles, torch.zeros_like(scores), repulsion=3.0)
    torch.testing.assert_close(push.sum(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(push.abs().min()) > 1e-3
    phi = stein_direction(particles, scores)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(stein_direction(particles[order], scores[order]), phi[order])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=draws, dtype=torch.float64)).Q
    torch.testing.assert_close(stein_direction(particles @ turn, scores @ turn), phi @ turn)


def test_the_median_leaves_out_the_diagonal_and_has_a_guard() -> None:
    # with the two zeros of the diagonal the median of (0, 0, 1, 1) would be one half
    assert float(median_bandwidth(squared_distances(column(0, 1)))) * math.log(3) == pytest.approx(1.0)
    same = torch.ones(4, 3)
    assert stein_direction(same, -same).isfinite().all()


def test_the_kernel_is_the_gradient_of_its_closed_form() -> None:
    particles = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h = 1.7
    expected = torch.zeros_like(particles)
    for i in range(4):
        others = particles.clone().requires_grad_(True)
        kernel = torch.exp(-(others - particles[i]).square().sum(1) / h).sum()
        (gradient,) = torch.autograd.grad(kernel, others)
        expected[i] = gradient.sum(0) / 4
    torch.testing.assert_close(stein_direction(particles, torch.zeros_like(particles), bandwidth=h), expected)
