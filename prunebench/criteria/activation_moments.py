"""Moments of an activation f(X) of a normal variable X ~ N(beta, gamma^2), in closed form.

A batch-norm layer standardises its input, so channel i leaves it with mean beta_i and deviation |gamma_i|; read as a
normal variable this gives every statistic of the activation without data (Oh et al. 2022; the formulas are derived
and checked by simulation in the tests). With s = |gamma|, a = beta / s, phi and Phi the standard normal density and
distribution: E[max(X, 0)] = s phi(a) + beta Phi(a), E[max(X, 0)^2] = (beta^2 + s^2) Phi(a) + beta s phi(a).

Every function maps ``beta [channels]``, ``gamma [channels]`` to float64 ``[channels]``; s = 0 is the constant beta.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ACTIVATIONS = ("relu", "relu6", "leaky_relu", None)
"""What may follow the norm layer; None is a linear output (the last norm of a block, before the addition)."""

_SMALLEST_SCALE = 1e-12  # only inside the quotient beta / s: keeps s = 0 finite, moves no other result
_RELU6_CEILING = 6.0


def _parts(beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """beta, s, phi(beta / s), Phi(beta / s) in float64."""
    beta, scale = beta.detach().double(), gamma.detach().double().abs()
    ratio = beta / scale.clamp_min(_SMALLEST_SCALE)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2.0 * math.pi)
    return beta, scale, density, torch.special.ndtr(ratio)


def _relu_mean(beta: Tensor, gamma: Tensor) -> Tensor:
    beta, scale, density, probability = _parts(beta, gamma)
    return (scale * density + beta * probability).clamp_min(0.0)


def _relu_square(beta: Tensor, gamma: Tensor) -> Tensor:
    beta, scale, density, probability = _parts(beta, gamma)
    return ((beta.square() + scale.square()) * probability + beta * scale * density).clamp_min(0.0)


def _check(activation: str | None) -> None:
    if activation not in ACTIVATIONS:
        allowed = ", ".join(str(name) for name in ACTIVATIONS)
        raise ValueError(f"no closed form for the activation {activation!r}; there is one for {allowed}")


def prob_active(beta: Tensor, gamma: Tensor) -> Tensor:
    """P(X > 0), the share of positions where a rectifier lets something pass."""
    beta, scale, _, probability = _parts(beta, gamma)
    return torch.where(scale == 0, (beta > 0).double(), probability)


def mean(beta: Tensor, gamma: Tensor, *, activation: str | None = "relu", slope: float = 0.01) -> Tensor:
    """E[f(X)]. ``slope`` is that of a leaky ReLU and unused otherwise."""
    _check(activation)
    if activation is None:
        return beta.detach().double()
    rectified = _relu_mean(beta, gamma)
    if activation == "relu6":
        return rectified - _relu_mean(beta - _RELU6_CEILING, gamma)
    if activation == "leaky_relu":
        return (1.0 - slope) * rectified + slope * beta.detach().double()
    return rectified


def magnitude(beta: Tensor, gamma: Tensor, *, activation: str | None = "relu", slope: float = 0.01) -> Tensor:
    """E|f(X)|: the mean where f >= 0, and what the mean means as an importance where f takes both signs."""
    _check(activation)
    if activation in ("relu", "relu6"):
        return mean(beta, gamma, activation=activation)
    negative = _relu_mean(-beta, gamma)
    return _relu_mean(beta, gamma) + (1.0 if activation is None else abs(slope)) * negative


def second_moment(beta: Tensor, gamma: Tensor, *, activation: str | None = "relu", slope: float = 0.01) -> Tensor:
    """E[f(X)^2]."""
    _check(activation)
    if activation is None:
        return beta.detach().double().square() + gamma.detach().double().square()
    square = _relu_square(beta, gamma)
    if activation == "relu6":
        # above the ceiling X = 6 + Z, Z > 0: X^2 counts 36 only, so Z^2 + 12 Z must go
        above = beta - _RELU6_CEILING
        return square - _relu_square(above, gamma) - 2.0 * _RELU6_CEILING * _relu_mean(above, gamma)
    if activation == "leaky_relu":
        return square + slope**2 * _relu_square(-beta, gamma)
    return square


def variance(beta: Tensor, gamma: Tensor, *, activation: str | None = "relu", slope: float = 0.01) -> Tensor:
    """Var[f(X)], never negative and exactly 0 for gamma = 0."""
    if activation is None:
        return gamma.detach().double().square()
    expected = mean(beta, gamma, activation=activation, slope=slope)
    spread = second_moment(beta, gamma, activation=activation, slope=slope) - expected.square()
    return torch.where(gamma == 0, 0.0, spread.clamp_min(0.0))


def std(beta: Tensor, gamma: Tensor, *, activation: str | None = "relu", slope: float = 0.01) -> Tensor:
    """Standard deviation of f(X): what a channel still says once its mean has been compensated."""
    return variance(beta, gamma, activation=activation, slope=slope).sqrt()
