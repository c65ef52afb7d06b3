"""Comparisons of scores."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(scores: Tensor, count: int) -> list[int]:
    return torch.argsort(scores, stable=True)[:count].tolist()


def close(actual: Tensor, expected: list[float], places: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=places, rtol=0)
