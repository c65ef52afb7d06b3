"""Stein variational gradient descent: how particles move towards a density of which only the score is known.

Liu, Wang: Stein Variational Gradient Descent, NIPS 2016 (arXiv 1608.04471).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_MEDIAN = 1e-12


def squared_distances(particles: Tensor) -> Tensor:
    """``[K, D]`` -> ``[K, K]``, without the cancellation of a matrix product."""
    return torch.cdist(particles, particles, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_bandwidth(distances: Tensor) -> Tensor:
    """Median of the squared distances of different particles / ln(K + 1), for ``[K, K]`` with K of at least 2."""
    number = len(distances)
    apart = ~torch.eye(number, dtype=torch.bool, device=distances.device)
    median = torch.quantile(distances[apart], 0.5).clamp_min(MIN_MEDIAN)
    return median / math.log(number + 1)


def stein_direction(
    particles: Tensor, scores: Tensor, *, repulsion: float = 1.0, bandwidth: float | None = None
) -> Tensor:
    """phi(x_i) = mean over j of k(x_j, x_i) score(x_j) + repulsion d k(x_j, x_i) / d x_j, ``[K, D]``.

    k(x, x') = exp(-|x - x'|^2 / h). A single particle has its own score: gradient ascent.

    Args:
        particles: ``[K, D]``, without gradients.
        scores: d ln p / dx of each, ``[K, D]``.
        repulsion: factor of the kernel's gradient; 1 is the paper's.
        bandwidth: h; None = :func:`median_bandwidth`.
    """
    if len(particles) == 1:
        return scores.clone()
    distances = squared_distances(particles)
    h = median_bandwidth(distances) if bandwidth is None else bandwidth
    kernel = torch.exp(-distances / h)
    # sum over j of k_ij (x_i - x_j); the mean is taken off, since only differences count
    centred = particles - particles.mean(0)
    away = centred * kernel.sum(1, keepdim=True) - kernel @ centred
    return (kernel @ scores + repulsion * 2 / h * away) / len(particles)


def full_repulsion(dimensions: int, number: int) -> float:
    """The factor D / ln(K + 1) with which particles around a Gaussian target have its variance in each coordinate.

    With the factor 1 their variance is ln(K + 1) / D where D >= K - 1: at equal squared distances d the bandwidth is
    d / ln(K + 1), the kernel 1 / (K + 1), and standing still needs h = 2 repulsion.
    """
    return dimensions / math.log(number + 1)
