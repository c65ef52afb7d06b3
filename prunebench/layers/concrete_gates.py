"""Gates that are 0 or 1 at random, with a gradient for their probability: a binary concrete variable, rounded.

Maddison et al. 2017, Jang et al. 2017; as used by Jantre, Bhattacharya, Maiti 2023 (jsanket12/SS_IG,
Gauss_linear_layers.py:14-21). Elementwise in ``location``, the logit of P(gate = 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-10  # keeps the logarithms of a uniform number finite


def relaxed(location: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The soft gate in (0, 1) that belongs to a ``uniform`` number in [0, 1); above 1/2 if the gate is 1."""
    noise = (uniform + EPS).log() - (1 - uniform + EPS).log()
    return torch.sigmoid((location + noise) / temperature)


def straight_through(location: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The gate itself, exactly 0 or 1, with the gradient of the soft one.

    P(gate = 1) over uniform numbers is sigmoid(location), whatever the temperature.
    """
    soft = relaxed(location, uniform, temperature)
    # soft - soft is exactly 0; hard - soft + soft might be one rounding off
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


def sample(location: Tensor, temperature: float) -> Tensor:
    """One draw of each gate, with torch's global generator."""
    return straight_through(location, torch.rand_like(location), temperature)
