"""Criteria: pure functions from the weights of one layer to one score per output channel; low scores go first."""

from __future__ import annotations

from prunebench.criteria.activation_moments import (
    ACTIVATIONS,
    magnitude,
    mean,
    prob_active,
    second_moment,
    std,
    variance,
)
from prunebench.criteria.filters import geometric_median, l1_norm, l2_norm, mixed, random
from prunebench.criteria.norms import STATISTICS, bn_importance, kernel_sums, mean_shift, needs_readers
from prunebench.criteria.thresholds import (
    largest,
    layer_std_threshold,
    redraw_std,
    remaining_threshold,
)

__all__ = [
    "ACTIVATIONS",
    "STATISTICS",
    "bn_importance",
    "geometric_median",
    "kernel_sums",
    "l1_norm",
    "l2_norm",
    "largest",
    "layer_std_threshold",
    "magnitude",
    "mean",
    "mean_shift",
    "mixed",
    "needs_readers",
    "prob_active",
    "random",
    "redraw_std",
    "remaining_threshold",
    "second_moment",
    "std",
    "variance",
]
