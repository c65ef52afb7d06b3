"""Skewed Jensen-Shannon divergences of a posterior q from a prior p, in nats, one value per weight.

Thiagarajan, Ghosh 2024 (arXiv 2209.11366). ``alpha`` in [0, 1] is the share of q in the mean of both densities and the
weight of the direction from p: alpha = 0 is KL(q || p), alpha = 1 is KL(p || q), alpha = 1/2 is symmetric. This is the
paper's "modified" family; in the usual one (Deasy et al. 2020) the exponents are exchanged, and alpha = 0 gives 0.
The geometric one has no bound, the arithmetic one has (:func:`arithmetic_bound`).

All functions are pure and elementwise; arguments broadcast. Deviations are standard deviations, never variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LogProb = Callable[[Tensor], Tensor]
"""ln p of each weight."""
NODES = 32


def geometric(
    mean: Tensor, std: Tensor, prior_mean: Tensor | float, prior_std: Tensor | float, *, alpha: float
) -> Tensor:
    """(1 - alpha) KL(q || G) + alpha KL(p || G) for Gaussian q, p: G is the normalised q^alpha p^(1 - alpha).

    G = N(mu, v) with 1 / v = a + b, a = alpha / v_q, b = (1 - alpha) / v_p; the distances of its mean from those of q
    and p are v b d and v a d for d = mean - prior_mean, so that no two large numbers are subtracted.
    """
    v_q, v_p = std.square(), torch.as_tensor(prior_std, dtype=std.dtype, device=std.device).square()
    a, b = alpha / v_q, (1 - alpha) / v_p
    v = 1 / (a + b)
    spread = ((1 - alpha) * v_q + alpha * v_p) / v
    logs = v.log() - (1 - alpha) * v_q.log() - alpha * v_p.log()
    distance = v * ((1 - alpha) * b.square() + alpha * a.square()) * (mean - prior_mean).square()
    return 0.5 * (spread + logs + distance - 1)


def log_overlap(
    mean: Tensor, std: Tensor, prior_mean: Tensor | float, prior_std: Tensor | float, *, alpha: float
) -> Tensor:
    """ln Z of Gaussian q and p, Z = integral of q^alpha p^(1 - alpha), at most 0.

    :func:`geometric` is (1 - alpha)^2 KL(q || p) + alpha^2 KL(p || q) + ln Z; the paper's G is written without it.
    """
    v_q, v_p = std.square(), torch.as_tensor(prior_std, dtype=std.dtype, device=std.device).square()
    v = 1 / (alpha / v_q + (1 - alpha) / v_p)
    logs = v.log() - alpha * v_q.log() - (1 - alpha) * v_p.log()
    # alpha m_q^2 / v_q + (1 - alpha) m_p^2 / v_p - m^2 / v, of which only the distance of the means is left
    distance = alpha * (1 - alpha) * v / (v_q * v_p) * (mean - prior_mean).square()
    return 0.5 * (logs - distance)


def log_overlap_of(mean: Tensor, std: Tensor, log_p: LogProb, *, alpha: float) -> Tensor:
    """ln Z of a Gaussian q and any prior, by Gauss-Hermite quadrature with :data:`NODES` nodes a weight.

    The nodes are those of q^alpha, a Gaussian of deviation ``std / sqrt(alpha)``; ``alpha = 0`` gives 0.
    """
    if alpha == 0:
        return torch.zeros_like(mean)
    nodes, weights = (torch.as_tensor(x, dtype=mean.dtype, device=mean.device) for x in _hermite())
    wide = std / math.sqrt(alpha)
    shape = (-1, *[1] * mean.dim())
    powers = (1 - alpha) * log_p(mean + wide * nodes.view(shape)) + weights.log().view(shape)
    return torch.logsumexp(powers, 0) + wide.log() - alpha * std.log() + 0.5 * (1 - alpha) * math.log(2 * math.pi)


def _hermite() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the mean under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


def sampled_geometric(drawn: Tensor, prior_drawn: Tensor, log_q: LogProb, log_p: LogProb, *, alpha: float) -> Tensor:
    """(1 - alpha)^2 KL(q || p) + alpha^2 KL(p || q) on one draw of each: for any prior, without ln Z.

    Args:
        drawn: from q, reparameterised. ``prior_drawn``: from p.
        log_q: the density of q, with gradients for its parameters. ``log_p``: that of p.
    """
    forward = log_q(drawn) - log_p(drawn)
    backward = log_p(prior_drawn) - log_q(prior_drawn)
    return (1 - alpha) ** 2 * forward + alpha**2 * backward


def sampled_arithmetic(drawn: Tensor, prior_drawn: Tensor, log_q: LogProb, log_p: LogProb, *, alpha: float) -> Tensor:
    """(1 - alpha) KL(q || A) + alpha KL(p || A) on one draw of each, A = alpha q + (1 - alpha) p for each weight.

    Arguments as of :func:`sampled_geometric`. In log space, since densities of a narrow q underflow.
    """
    at_q, at_p = log_q(drawn), log_p(prior_drawn)
    from_q = at_q - _log_mixture(at_q, log_p(drawn), alpha)
    from_p = at_p - _log_mixture(log_q(prior_drawn), at_p, alpha)
    return (1 - alpha) * from_q + alpha * from_p


def _log_mixture(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    if alpha in (0, 1):
        return log_q if alpha else log_p
    return torch.logaddexp(math.log(alpha) + log_q, math.log1p(-alpha) + log_p)


def arithmetic_bound(alpha: float) -> float:
    """What the arithmetic divergence of one weight cannot exceed, for 0 < alpha < 1: ln 2 for alpha = 1/2."""
    return -(1 - alpha) * math.log(alpha) - alpha * math.log1p(-alpha)
