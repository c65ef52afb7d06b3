"""Layers whose weight is a parameter of their own, and not computed from others (spectral norm, weight norm)."""

from __future__ import annotations

from torch import nn


def has_own_weight(module: nn.Module) -> bool:
    """Whether ``module.weight`` is a parameter that a method may mask, score or replace."""
    return module._parameters.get("weight") is not None
