"""Masks with a beta-Bernoulli prior and a Kumaraswamy posterior: one rate pi for each unit, one draw for each example.

Lee et al., arXiv 1805.10896, as Madaan, Shin, Hwang, ICML 2020, use it (ANP_VS, bbdropout.py). With the prior
pi ~ Beta(alpha0, 1) and z | pi ~ Bernoulli(pi) the posterior is q(pi) = Kumaraswamy(a, b), whose density is
a b pi^(a-1) (1 - pi^a)^(b-1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EULER_GAMMA = 0.577215664901532
_TINY = 1e-20
_FIRST, _LAST = 1e-10, 1 - 2.0**-24
"""Uniform draws stay between them."""
RAW_A_LOW, RAW_B_LOW, RAW_B_HIGH = -10.0, -10.0, 50.0
"""To what the free parameters are clipped in front of softplus."""


def expected_rate(a: Tensor, b: Tensor) -> Tensor:
    """E[pi] of Kumaraswamy(a, b), ``[K]``: b Gamma(1 + 1/a) Gamma(b) / Gamma(1 + 1/a + b).

    In float64: at a = 4.5e-5 ln Gamma(1 + 1/a) is about 2e5, where float32 steps by 0.016.
    """
    a, b = a.double(), b.double()
    top = 1 + 1 / a
    return (b.log() + torch.lgamma(top) + torch.lgamma(b) - torch.lgamma(top + b)).exp()


def divergence(a: Tensor, b: Tensor, prior: float) -> Tensor:
    """KL of Kumaraswamy(a, b) from Beta(prior, 1) of each unit, nats, ``[K]``; 0 at a = prior, b = 1."""
    shift = (1 - prior / a) * (-EULER_GAMMA - torch.digamma(b) - 1 / b)
    return shift + (a * b / prior).log() - (b - 1) / b


def draw_rate(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """pi = (1 - u^(1/b))^(1/a) for uniform u, all ``[K]``, with gradients for a and b."""
    log_rest = (-torch.expm1(u.log() / b)).log()  # u^(1/b) is 1 in float32 for large b
    return (log_rest / a).exp()


def soften(pi: Tensor, v: Tensor, temperature: float) -> Tensor:
    """The concrete relaxation of Bernoulli(pi) for uniform v, ``[B, K]`` in (0, 1); P(z > 1/2) is pi exactly."""
    return torch.sigmoid((_logit(v) + _logit(pi)) / temperature)


def _logit(p: Tensor) -> Tensor:
    return (p + _TINY).log() - (1 - p + _TINY).log()


class BetaBernoulliMask(nn.Module):
    """Multiplies units by z: drawn in training, in evaluation the expected rate, or 0 where that is below a threshold.

    pi is drawn once a pass, z for each example; z is never rounded.

    Args:
        units: K. ``raw_a``, ``raw_b``: first values of the free parameters, a = softplus(raw_a).
        temperature: of the relaxation. ``threshold``: of the expected rate, at or below it a unit is gone.

    Attributes:
        raw_a, raw_b: ``[K]``.
    """

    def __init__(self, units: int, *, raw_a: float, raw_b: float, temperature: float, threshold: float) -> None:
        super().__init__()
        self.raw_a = nn.Parameter(torch.full((units,), float(raw_a)))
        self.raw_b = nn.Parameter(torch.full((units,), float(raw_b)))
        self.temperature, self.threshold = temperature, threshold

    def shape(self) -> tuple[Tensor, Tensor]:
        """a and b, ``[K]`` each."""
        a = F.softplus(self.raw_a.clamp_min(RAW_A_LOW))
        return a, F.softplus(self.raw_b.clamp(RAW_B_LOW, RAW_B_HIGH))

    @torch.no_grad()
    def rates(self) -> Tensor:
        """What units are multiplied with in evaluation, float64 ``[K]``: E[pi], 0 for those that are gone."""
        found = expected_rate(*self.shape())
        return torch.where(found > self.threshold, found, 0.0)

    def num_active(self) -> int:
        """Units that stay."""
        return int((self.rates() > 0).sum())

    def divergence(self, prior: float) -> Tensor:
        """KL from Beta(prior, 1), a sum over the units, nats."""
        return divergence(*self.shape(), prior).sum()

    def draw(self, examples: int) -> Tensor:
        """Masks ``[examples, K]`` with gradients, from torch's generator of the device."""
        u = torch.rand_like(self.raw_a).clamp(_FIRST, _LAST)
        v = torch.rand(examples, len(u), dtype=u.dtype, device=u.device)
        return soften(draw_rate(*self.shape(), u), v, self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, K, ...]`` to the same shape and type."""
        mask = self.draw(len(x)) if self.training else self.rates()[None]
        return x * mask.to(x.dtype).view(*mask.shape, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        """Number of units."""
        return f"units={len(self.raw_a)}"
