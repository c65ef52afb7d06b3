"""From gates to numbers of channels: a bisection on the share of all gates that is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.errors import UserError

ITERATES = ("last", "closest", "within_budget")


@dataclass(frozen=True, kw_only=True)
class Iterate:
    """One step of the bisection.

    Attributes:
        kept: number of gates that stay, before the floor of one a layer.
        counts: channels of each layer.
        removed: share of the MACs that this removes; negative if the net is larger than what it is compared with.
    """

    kept: int
    counts: tuple[int, ...]
    removed: float

    def gap(self, target: float) -> float:
        """Distance from the share to be removed, relative to it."""
        return abs(self.removed - target) / target


def count_kept(gates: Sequence[Tensor], kept: int, *, seed: int) -> tuple[int, ...]:
    """How many of the ``kept`` largest gates lie in each layer.

    Many gates are exactly 0 or 1. Which of equal ones stay is drawn, so that no layer is favoured for its place.

    Args:
        gates: of each layer, ``[channels]``.
        kept: number of gates that stay in all layers together.
        seed: of that draw, which is the same for any ``kept``.
    """
    flat = torch.cat(list(gates))
    layer = torch.repeat_interleave(torch.arange(len(gates)), torch.tensor([len(part) for part in gates]))
    drawn = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    order = drawn[flat[drawn].argsort(descending=True, stable=True)][:kept]
    return tuple(torch.bincount(layer[order], minlength=len(gates)).tolist())


def num_tied(gates: Sequence[Tensor], kept: int) -> int:
    """Number of gates as large as the last that is kept, if some of them stay and some go; else 0."""
    ranked = torch.cat(list(gates)).sort(descending=True).values
    if not 0 < kept < len(ranked) or ranked[kept - 1] != ranked[kept]:
        return 0
    return int((ranked == ranked[kept]).sum())


def largest(gates: Tensor, count: int) -> tuple[int, ...]:
    """Ascending indices of the ``count`` largest gates of a layer; ties go to the lower index."""
    return tuple(gates.argsort(descending=True, stable=True)[:count].sort().values.tolist())


def bisect(
    gates: Sequence[Tensor],
    removed: Callable[[Sequence[int]], float],
    *,
    target: float,
    max_iterations: int,
    tolerance: float,
    seed: int = 0,
) -> list[Iterate]:
    """Search the share of gates to drop at which the share ``target`` of the MACs is removed.

    Wang et al. 2020, section 3.3; prune_model.py:44-90 of the official code: halve the interval [0, 1], keep the
    ``round(n * (1 - share))`` largest of all gates, stop as soon as the relative gap is at most ``tolerance``. The
    official code takes the last iterate, also where the tolerance was never met. A layer keeps one channel at least.

    Args:
        gates: of each layer, ``[channels]``.
        removed: channels of each layer -> share of the MACs that is removed.
        target: share to be removed, in (0, 1).
        max_iterations: at least 1.
        seed: see :func:`count_kept`.

    Returns:
        Every iterate in its order, at least one.
    """
    total = sum(len(part) for part in gates)
    low, high = 0.0, 1.0
    trace: list[Iterate] = []
    for _ in range(max_iterations):
        dropped = (low + high) / 2
        kept = round(total * (1 - dropped))  # a half goes to the even number, as in the official code
        counts = tuple(max(1, count) for count in count_kept(gates, kept, seed=seed))
        trace.append(Iterate(kept=kept, counts=counts, removed=removed(counts)))
        if trace[-1].gap(target) <= tolerance:
            break
        if trace[-1].removed > target:
            high = dropped
        else:
            low = dropped
    return trace


def pick(trace: Sequence[Iterate], target: float, which: str) -> Iterate:
    """The step of a bisection that counts.

    Args:
        trace: what :func:`bisect` returned.
        target: share of the MACs to be removed.
        which: ``last`` as in the official code, ``closest`` to the target, or closest ``within_budget``: among those
            that remove at least the target.

    Raises:
        UserError: no step is within the budget.
    """
    if which == "last":
        return trace[-1]
    found = [step for step in trace if which == "closest" or step.removed >= target]
    if not found:
        raise UserError(
            f"none of the {len(trace)} steps of the bisection removes at least {target:g} of the MACs; "
            "raise method.max_iterations or method.target_macs"
        )
    return min(found, key=lambda step: step.gap(target))
