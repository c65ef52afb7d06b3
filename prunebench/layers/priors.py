"""Priors of single weights: density and draws. Densities are in :mod:`prunebench.layers.kl` where it has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import OpenFraction, PositiveFloat, Range
from prunebench.layers import kl

Scale = Annotated[float, Range(low=1e-8)]
LogScale = Annotated[float, Range(low=-18, high=80)]
"""ln of a :data:`Scale`."""


class Prior(ABC):
    """A density over one weight, around 0."""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """ln p of each element, nats."""

    @abstractmethod
    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws in the shape of ``like``; ``generator`` is of its device, None = the global one."""


@validated
@dataclass(frozen=True, kw_only=True)
class GaussianPrior(Prior):
    """N(0, std^2)."""

    std: Scale

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.gaussian_log_prob(value, 0.0, self.std)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.std * _normal(like, generator)


@validated
@dataclass(frozen=True, kw_only=True)
class LaplacePrior(Prior):
    """Laplace(0, scale)."""

    scale: Scale

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.laplace_log_prob(value, self.scale)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.scale * _laplace(like, generator)


@validated
@dataclass(frozen=True, kw_only=True)
class GaussianMixturePrior(Prior):
    """``share`` N(0, wide^2) + (1 - share) N(0, narrow^2)."""

    share: OpenFraction
    wide: PositiveFloat
    narrow: PositiveFloat

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.scale_mixture_log_prob(value, share=self.share, wide=self.wide, narrow=self.narrow)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return _one_of(self.share, self.wide, self.narrow, like, generator) * _normal(like, generator)


@validated
@dataclass(frozen=True, kw_only=True)
class LaplaceMixturePrior(Prior):
    """``share`` Laplace(0, wide) + (1 - share) Laplace(0, narrow)."""

    share: OpenFraction
    wide: PositiveFloat
    narrow: PositiveFloat

    def log_prob(self, value: Tensor) -> Tensor:
        return kl.laplace_mixture_log_prob(value, share=self.share, wide=self.wide, narrow=self.narrow)

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return _one_of(self.share, self.wide, self.narrow, like, generator) * _laplace(like, generator)


def _one_of(share: float, wide: float, narrow: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """``wide`` with the probability ``share``, else ``narrow``, in the shape of ``like``."""
    first = _uniform(like, generator) < share
    return torch.where(first, torch.full_like(like, wide), torch.full_like(like, narrow))


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


def _laplace(like: Tensor, generator: torch.Generator | None) -> Tensor:
    signs = _uniform(like, generator) < 0.5
    size = torch.empty_like(like).exponential_(generator=generator)
    return torch.where(signs, -size, size)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).uniform_(generator=generator)
