"""Priors of single weights: density and draws. Densities are in :mod:`prunebench.layers.kl` where it has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.layers import kl


class Prior(ABC):
    """A density over one weight."""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """ln p of each element."""

    @abstractmethod
    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws in the shape of ``like``; ``generator`` is of its device, None = the global one."""


@dataclass(frozen=True, kw_only=True)
class GaussianPrior(Prior):
    """N(0, std^2)."""

    std: float

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.gaussian_log_prob(value, 0.0, self.std)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.std * _normal(like, generator)


@dataclass(frozen=True, kw_only=True)
class LaplacePrior(Prior):
    """Laplace(0, scale)."""

    scale: float

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.laplace_log_prob(value, self.scale)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        signs = _uniform(like, generator) < 0.5
        size = torch.empty_like(like).exponential_(generator=generator) * self.scale
        return torch.where(signs, -size, size)


@dataclass(frozen=True, kw_only=True)
class MixturePrior(Prior):
    """``share`` N(0, wide^2) + (1 - share) N(0, narrow^2)."""

    share: float
    wide: float
    narrow: float

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.scale_mixture_log_prob(value, share=self.share, wide=self.wide, narrow=self.narrow)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        first = _uniform(like, generator) < self.share
        std = torch.where(first, torch.full_like(like, self.wide), torch.full_like(like, self.narrow))
        return std * _normal(like, generator)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).uniform_(generator=generator)
