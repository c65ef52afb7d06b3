"""Predictions of each draw of a measurement, kept for what cannot be computed from their mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.layers.sampling import Ensemble


class Recorded(Ensemble):
    """S draws whose predictions are kept until they are asked for; made for one measurement.

    Args:
        net, num_samples, seed: of :class:`~prunebench.layers.sampling.Ensemble`.
    """

    def __init__(self, net: nn.Module, *, num_samples: int, seed: int) -> None:
        super().__init__(net, num_samples=num_samples, seed=seed)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def record(self, probabilities: Tensor, labels: Tensor) -> None:
        """Keep probabilities ``[S, B, classes]`` and labels ``[B]``."""
        self._seen.append((probabilities.cpu(), labels.cpu()))

    def recorded(self) -> tuple[Tensor, Tensor]:
        """All since the last call: ``[S, N, classes]`` and ``[N]``."""
        samples, labels = zip(*self._seen, strict=True)
        self._seen = []
        return torch.cat(samples, 1), torch.cat(labels)
