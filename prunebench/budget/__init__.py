"""How much goes where: scores of channels -> the plan of those that stay."""

from __future__ import annotations

from prunebench.budget.achieved import counted, describe
from prunebench.budget.choose import Choice, choose
from prunebench.budget.counts import Count, keep_floor, mixed_floor, prune_floor, ratio_table
from prunebench.budget.ranked import removal_order

__all__ = [
    "Choice",
    "Count",
    "choose",
    "counted",
    "describe",
    "keep_floor",
    "mixed_floor",
    "prune_floor",
    "ratio_table",
    "removal_order",
]
