"""How numbers are distributed, as plain data that a page can draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUM_BINS = 50


def histogram(values: Tensor, *, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Equal bins between the smallest and the largest finite value.

    Returns:
        ``edges`` of the bins, ``counts``, ``cdf`` (share of all values up to the end of each bin) and ``below`` (how
        many are minus infinity).
    """
    values = values.detach().flatten().cpu().double()
    finite = values[values.isfinite()]
    below = int((values == -torch.inf).sum())
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, num_bins + 1, dtype=torch.float64)
    bins = ((finite - low) / (high - low) * num_bins).long().clamp(0, num_bins - 1)
    counts = torch.bincount(bins, minlength=num_bins)
    shares = (counts.cumsum(0) + below) / max(1, len(values))
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": counts.tolist(),
        "cdf": [round(float(share), 6) for share in shares],
        "below": below,
    }
