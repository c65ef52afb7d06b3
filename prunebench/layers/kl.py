"""Divergences of Gaussian posteriors from their priors, in nats, one value per weight.

A sum over all weights of all layers is the KL term of the evidence lower bound. With the mean cross-entropy of a batch
it is divided by the number of training samples, once; a mean over weights would take the pressure to be sparse away.
All functions are pure and elementwise; arguments broadcast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Molchanov et al. 2017, eq. 14
K1, K2, K3 = 0.63576, 1.87320, 1.48695
# Kingma et al. 2015, appendix C; the official text prints the first digits
C1, C2, C3 = 1.161451241083230, -1.502041176441722, 0.586299206427007
LOG_UNIFORM_CONSTANT = 0.5 * (0.5772156649015329 + math.log(2.0))
"""0.635181: with it the cubic form has the normalisation of the other one, 0 at infinite alpha."""


def log_uniform(log_alpha: Tensor) -> Tensor:
    """KL(N(t, alpha t^2) || log-uniform prior), for all alpha: Molchanov et al. 2017, eq. 14.

    Normalised to 0 at alpha = infinity; for small alpha it approaches 0.6358 - ln(alpha) / 2. The error is at most
    0.0094 for log alpha in [-8, 8].
    """
    return K1 * torch.sigmoid(-(K2 + K3 * log_alpha)) + 0.5 * F.softplus(-log_alpha)


def log_uniform_cubic(log_alpha: Tensor) -> Tensor:
    """The same for alpha <= 1 only: the polynomial of Kingma et al. 2015, appendix C; explodes above.

    Their constant is left open; here it is :data:`LOG_UNIFORM_CONSTANT`, so that both forms agree within 0.041.
    """
    alpha = log_alpha.exp()
    polynomial = alpha * (C1 + alpha * (C2 + alpha * C3))
    return LOG_UNIFORM_CONSTANT - 0.5 * log_alpha - polynomial


def log_uniform_conv(log_alpha: Tensor) -> Tensor:
    """The same as Cui et al. 2021 approximate it in convolutions (modules/torch_vnd.py), up to a constant.

    Near the cubic form for alpha <= 1; above it bends back to 0. The minimum, -0.5471 at log alpha = 1.03, is a pull
    away from very large alpha: no weight is driven to be pruned.
    """
    return _log_uniform_bump(log_alpha, height=0.7294, sharpness=math.exp(0.5387), offset=-0.2041, slope=0.3492)


def log_uniform_linear(log_alpha: Tensor) -> Tensor:
    """The same in linear layers; its minimum is -0.7005 at log alpha = 1.79."""
    return _log_uniform_bump(log_alpha, height=0.792, sharpness=1.0, offset=-0.4826, slope=0.3451)


def _log_uniform_bump(log_alpha: Tensor, *, height: float, sharpness: float, offset: float, slope: float) -> Tensor:
    """ln(1 + 1 / alpha) / 2 minus a bump in log alpha."""
    bump = torch.exp(-sharpness * (offset + slope * log_alpha).square())
    return 0.5 * F.softplus(-log_alpha) - height * bump


def gaussian(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """KL(N(mean, std^2) || N(0, prior_std^2))."""
    return math.log(prior_std) - std.log() + (std.square() + mean.square()) / (2 * prior_std**2) - 0.5


def gaussian_by_row(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """:func:`gaussian` summed over all dimensions but the first, ``[out, ...]`` to ``[out]``; makes fewer tensors."""
    mean, std = mean.flatten(1), std.flatten(1)
    squares = torch.linalg.vecdot(mean, mean) + torch.linalg.vecdot(std, std)
    total: Tensor = mean.shape[1] * (math.log(prior_std) - 0.5) - std.log().sum(1) + squares / (2 * prior_std**2)
    return total


def laplace(mean: Tensor, std: Tensor, scale: float) -> Tensor:
    """KL(N(mean, std^2) || Laplace(0, scale)); minus the entropy, plus ln(2 scale) + E|w| / scale."""
    ratio = mean / std
    absolute = std * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio.square())
    absolute = absolute + mean * torch.erf(ratio / math.sqrt(2.0))
    return math.log(2 * scale) - 0.5 * math.log(2 * math.pi * math.e) - std.log() + absolute / scale


def bernoulli(location: Tensor, log_prior: float) -> Tensor:
    """KL(Bernoulli(sigmoid(location)) || Bernoulli(e^log_prior)); the prior may be too small for a float, not 1."""
    on, off = F.logsigmoid(location), F.logsigmoid(-location)
    return on.exp() * (on - log_prior) + off.exp() * (off - math.log(-math.expm1(log_prior)))


def gaussian_log_prob(value: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """ln N(value; mean, std^2); ``std`` is a standard deviation, never a variance."""
    std = torch.as_tensor(std, dtype=value.dtype, device=value.device)
    return -0.5 * ((value - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def scale_mixture_log_prob(value: Tensor, *, share: float, wide: float, narrow: float) -> Tensor:
    """ln of ``share`` N(0, wide^2) + (1 - share) N(0, narrow^2), per weight: Blundell et al. 2015, eq. 7.

    Computed in log space: in float32 the narrow density of a large weight is exactly 0.
    """
    first = math.log(share) + gaussian_log_prob(value, 0.0, wide)
    second = math.log1p(-share) + gaussian_log_prob(value, 0.0, narrow)
    return torch.logaddexp(first, second)


def laplace_log_prob(value: Tensor, scale: float) -> Tensor:
    """ln of the Laplace density (2 scale)^-1 exp(-|value| / scale)."""
    return -value.abs() / scale - math.log(2 * scale)


def laplace_mixture_log_prob(value: Tensor, *, share: float, wide: float, narrow: float) -> Tensor:
    """ln of ``share`` Laplace(0, wide) + (1 - share) Laplace(0, narrow), per weight, in log space."""
    first = math.log(share) + laplace_log_prob(value, wide)
    return torch.logaddexp(first, math.log1p(-share) + laplace_log_prob(value, narrow))


def warmup(epoch: int, *, weight: float, start: int, length: int) -> float:
    """Weight of the KL term in an epoch: 0 before ``start``, then rising linearly to ``weight`` in ``length`` epochs.

    Epoch ``start`` has 0 and epoch ``start + length`` the whole weight (Molchanov et al., nets/optpolicy.py:35-40);
    a length of 0 is a step.
    """
    if epoch < start:
        return 0.0
    return weight * min(1.0, (epoch - start) / length) if length else weight
