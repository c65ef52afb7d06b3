"""A prior for weights from the weights of a trained layer: their quantiles where they are of use, two moments else."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

NUM_ATOMS, NUM_POINTS = 64, 512
MARGIN = 4.0
"""Bandwidths by which the grid reaches beyond the smallest and the largest weight."""
MIN_SCALE = 1e-3


def mixture_score(values: Tensor, atoms: Tensor, bandwidth: float) -> Tensor:
    """d ln p / dw of the equal-weight mixture of N(atom, bandwidth^2) at each value, in the shape of ``values``.

    Args:
        atoms: ``[C]``.
    """
    gaps = atoms - values[..., None]
    shares = torch.softmax(-gaps.square() / (2 * bandwidth**2), dim=-1)
    return (shares * gaps).sum(-1) / bandwidth**2


class QuantilePrior(nn.Module):
    """p(w | effective) is a mixture around 64 quantiles of a layer's weights, p(w | redundant) = N(mean, std^2).

    The mixture's bandwidth is 1.06 std 64^(-1/5), at least 0.001; as it goes to 0 the mixture becomes the discrete
    distribution of the weights. Its score is interpolated linearly on a grid of 512 points, which ends four bandwidths
    outside the weights; further out it stays what it is at the end.

    Args:
        weights: of the trained layer, any shape.

    Attributes:
        atoms: ``[64]``; ``grid``: the score, ``[512]``.
        low, step: first point of the grid, distance of two.
        mean, variance: of the weights.
    """

    atoms: Tensor
    grid: Tensor
    low: Tensor
    step: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        flat = weights.detach().cpu().double().flatten()
        places = (np.arange(NUM_ATOMS) + 0.5) / NUM_ATOMS
        atoms = torch.from_numpy(np.quantile(flat.numpy(), places))
        std = float(flat.std(correction=0))
        self.bandwidth = max(1.06 * std * NUM_ATOMS**-0.2, MIN_SCALE)
        low, high = float(flat.min()) - MARGIN * self.bandwidth, float(flat.max()) + MARGIN * self.bandwidth
        points = torch.linspace(low, high, NUM_POINTS, dtype=torch.float64)
        numbers = {
            "atoms": atoms,
            "grid": mixture_score(points, atoms, self.bandwidth),
            "low": torch.tensor(low),
            "step": torch.tensor((high - low) / (NUM_POINTS - 1)),
            "mean": flat.mean(),
            "variance": torch.tensor(max(std, MIN_SCALE) ** 2),
        }
        for name, value in numbers.items():
            self.register_buffer(name, value.to(weights))

    @property
    def std(self) -> float:
        """Standard deviation of the redundant part."""
        return math.sqrt(float(self.variance))

    def effective_score(self, values: Tensor) -> Tensor:
        """d ln p / dw where the weights are of use, in the shape of ``values``."""
        place = ((values - self.low) / self.step).clamp(0, NUM_POINTS - 1)
        left = place.floor().clamp_max(NUM_POINTS - 2)
        index = left.long()
        return torch.lerp(self.grid[index], self.grid[index + 1], place - left)

    def score(self, values: Tensor, effective: Tensor | None = None) -> Tensor:
        """d ln p / dw of each weight, in the common shape of the two.

        Args:
            effective: bool, which are of use; None = all.
        """
        found = self.effective_score(values)
        if effective is None:
            return found
        return torch.where(effective, found, (self.mean - values) / self.variance)
