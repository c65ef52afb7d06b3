"""The hard-concrete distribution: a gate in [0, 1] that is exactly 0 or exactly 1 with positive probability.

Louizos, Welling, Kingma: Learning sparse neural networks through L0 regularization, 2018, section 3. A binary concrete
variable with the location ``log_alpha`` is stretched from (0, 1) to (``low``, ``high``) and clamped to [0, 1].
All functions are elementwise in ``log_alpha`` but for :func:`expected_l0` and :func:`evaluation_gate`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import OpenFraction

TEMPERATURE = 1.0
LOW, HIGH = -0.1, 1.1
EPS = 1e-6


def sample(log_alpha: Tensor, *, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH) -> Tensor:
    """One reparameterised draw of each gate, with torch's global generator.

    Where a draw is clamped its gradient is exactly 0; elsewhere it is (high - low) s (1 - s) / temperature.
    """
    # float32 even under autocast: the tails decide which gates are exactly 0
    location = log_alpha.float()
    uniform = torch.empty_like(location).uniform_(EPS, 1 - EPS)
    soft = torch.sigmoid((uniform.log() - (-uniform).log1p() + location) / temperature)
    return (soft * (high - low) + low).clamp(0.0, 1.0)


def prob_nonzero(
    log_alpha: Tensor, *, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH
) -> Tensor:
    """P(gate > 0) = sigmoid(log_alpha - temperature ln(-low / high)), equation 12 of Louizos et al."""
    return torch.sigmoid(log_alpha - temperature * math.log(-low / high))


def expected_l0(log_alpha: Tensor, *, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH) -> Tensor:
    """Expected number of gates that are not 0, a scalar: what an L0 penalty minimises."""
    return prob_nonzero(log_alpha, temperature=temperature, low=low, high=high).sum()


def evaluation_gate(
    log_alpha: Tensor, *, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH
) -> Tensor:
    """The gates of FLOP at test time: as many zeros as expected, a soft value for the others.

    round(n - expected L0) gates (Python's ``round``) with the lowest sigmoid(0.8 log_alpha / temperature) are 0, of
    equal ones the first; the others keep that value, which is close to E[gate] (asappresearch/flop,
    flop/hardconcrete.py:105-116). Louizos et al. (equation 13) stretch and clamp sigmoid(log_alpha) instead.

    Args:
        log_alpha: ``[n]``.
    """
    expected = expected_l0(log_alpha.detach(), temperature=temperature, low=low, high=high)
    num_zero = round(len(log_alpha) - float(expected))
    soft = torch.sigmoid(0.8 * log_alpha / temperature)
    lowest = soft.argsort(stable=True)[:num_zero]
    return soft.index_fill(0, lowest, 0.0)


@validated
def initial_log_alpha(size: int, *, drop_rate: OpenFraction, std: float = 0.01) -> Tensor:
    """Normal draws around ln((1 - drop_rate) / drop_rate), ``[size]``: a small rate leaves the gates open.

    Raises:
        UserError: ``drop_rate`` is not strictly between 0 and 1.
    """
    return torch.randn(size) * std + math.log((1 - drop_rate) / drop_rate)
