"""A Gaussian over the weights of a net from the iterates of its training (SWAG, Maddox et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunebench.errors import UserError

VARIANCE_FLOOR = 1e-30  # swag/posteriors/swag.py:36


class IterateGaussian(nn.Module):
    """Mean, variance and the last K deviations of the weight vectors that were collected.

    Covariance ``scale * (diag(variance) + D^T D / (K - 1))`` with the deviations in the rows of D; SWAG has scale 1/2
    (section 3.3), the diagonal version drops the second term. The divisor is K - 1 even if fewer than K vectors were
    collected, as in the official code (swag/posteriors/swag.py:132), and a deviation is measured from the mean of its
    moment, which includes the new vector (:168).

    Mean and mean square are kept in float64: their difference cancels in float32, where the official code keeps them.

    Args:
        size: d, number of weights.
        rank: K, number of deviations that are kept; 0 = none.

    Attributes:
        num_collected: number of vectors so far, int64 scalar.
        mean, square: of the vectors and of their squares, float64 ``[d]``.
        deviations: D, float32 ``[K, d]``, the newest in the last row; rows that are not used yet are 0.
        live: bool ``[d]``; the others are 0 in the mean and in every sample.
    """

    num_collected: Tensor
    mean: Tensor
    square: Tensor
    deviations: Tensor
    live: Tensor

    def __init__(self, *, size: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("num_collected", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(rank, size))
        self.register_buffer("live", torch.ones(size, dtype=torch.bool))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> IterateGaussian:
        """The Gaussian of a ``state_dict``."""
        made = cls(size=len(state["mean"]), rank=len(state["deviations"]))
        made.load_state_dict(state)
        return made

    @property
    def rank(self) -> int:
        """K."""
        return len(self.deviations)

    @torch.no_grad()
    def collect(self, weights: Tensor) -> None:
        """Take in one weight vector ``[d]`` (swag/posteriors/swag.py:148-178)."""
        weights = weights.to(self.mean)
        self.num_collected += 1
        share = 1.0 / self.num_collected.double()
        self.mean += (weights - self.mean) * share
        self.square += (weights.square() - self.square) * share
        if self.rank:
            newest = (weights - self.mean).to(self.deviations)
            self.deviations.copy_(torch.cat([self.deviations[1:], newest[None]]))

    def variance(self) -> Tensor:
        """Variance of each weight over the iterates, float64 ``[d]``, at least ``VARIANCE_FLOOR``."""
        return (self.square - self.mean.square()).clamp_min(VARIANCE_FLOOR)

    def std(self, *, scale: float, low_rank: bool) -> Tensor:
        """Standard deviation of each weight under the Gaussian, float64 ``[d]``."""
        variance = self.variance()
        if low_rank:
            variance = variance + self.deviations.double().square().sum(0) / self._divisor()
        return (scale * variance).sqrt()

    def sample(self, diagonal: Tensor, shared: Tensor | None, *, scale: float) -> Tensor:
        """One weight vector, float64 ``[d]``: ``mean + sqrt(scale) (sqrt(variance) z1 + D^T z2 / sqrt(K - 1))``.

        Args:
            diagonal: z1, standard normal ``[d]``.
            shared: z2, standard normal ``[K]``, the same for all layers; None leaves the low-rank part out.
            scale: factor of the covariance.
        """
        noise = self.variance().sqrt() * diagonal.to(self.mean)
        if shared is not None:
            factors = shared.to(self.deviations) / math.sqrt(self._divisor())
            noise = noise + (factors @ self.deviations).to(noise)
        return (self.mean + math.sqrt(scale) * noise) * self.live

    def draw(self, generator: torch.Generator, *, scale: float, low_rank: bool) -> Tensor:
        """One random weight vector, float64 ``[d]``; scale 0 gives the mean. ``generator`` is one of the CPU."""
        diagonal = torch.randn(len(self.mean), generator=generator)
        shared = torch.randn(self.rank, generator=generator) if low_rank else None
        return self.sample(diagonal, shared, scale=scale)

    @torch.no_grad()
    def prune(self, live: Tensor) -> None:
        """Make the weights outside of ``live`` (bool ``[d]``) constant 0: mean, variance and deviations."""
        self.live &= live
        for values in (self.mean, self.square, self.deviations):
            values *= self.live

    def select(self, index: Tensor) -> IterateGaussian:
        """The Gaussian of the weights at ``index`` (int64 ``[n]``) alone, for a net that was made smaller."""
        index = index.to(self.mean.device)
        state = self.state_dict()
        return self.from_state({name: value[..., index] if value.ndim else value for name, value in state.items()})

    def _divisor(self) -> int:
        if self.rank < 2:
            raise UserError(f"the low-rank part of the covariance needs a rank of at least 2, got {self.rank}")
        return self.rank - 1
