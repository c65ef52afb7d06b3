"""How much goes when, if a net is pruned in small steps while it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PhaseShare, PositiveFloat
from prunebench.errors import UserError


def cubic_sparsity(time: int, *, initial: float, final: float, start: int, end: int, every: int = 1) -> float:
    """Sparsity in force at ``time``: fast at first, slow at the end (Zhu and Gupta 2017, equation 1).

    s = final + (initial - final) (1 - (t - start) / span)^3, where t is the last multiple of ``every`` after ``start``
    and span = ((end - start - 1) // every) every, so that the last update, at ``end - 1`` or a little before, reaches
    ``final`` (IntelLabs/distiller, distiller/pruning/automated_gradual_pruner.py:29-37).

    Args:
        time: in epochs or steps, from 0; before ``start`` nothing is pruned.
        start, end: where the ramp begins, and the first time after it.
    """
    if time < start:
        return 0.0
    span = (end - start - 1) // every * every
    done = min((time - start) // every * every, span)
    if done == span:  # also a ramp of a single update
        return final
    return final + (initial - final) * (1 - done / span) ** 3


@validated
class CubicRamp(nn.Module):
    """The sparsity now, in a phase whose steps are counted here; the time is that of :func:`cubic_sparsity`, in steps.

    With ``every = 1`` the updates are those of Distiller, one at the start of each epoch.

    Args:
        initial, final: sparsities, 0 <= initial <= final < 1.
        start, end: of the ramp, as shares of the phase.
        every: epochs from one update to the next; below 1 there are several in an epoch.

    Attributes:
        num_steps: optimiser steps so far.

    Raises:
        UserError: a value is out of range.
    """

    num_steps: Tensor

    def __init__(
        self,
        *,
        initial: FractionBelowOne,
        final: FractionBelowOne,
        start: PhaseShare,
        end: PhaseShare,
        every: PositiveFloat,
    ) -> None:
        super().__init__()
        if initial > final:
            raise UserError(f"method.initial_sparsity={initial!r} must not be above method.target_sparsity={final!r}")
        if start >= end:
            raise UserError(f"method.start={start!r} must be below method.end={end!r}")
        self.initial, self.final = initial, final
        self.start, self.end, self.every = start, end, every
        self.set_length(1, 1)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))

    def set_length(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Say how long the phase is; start, end and interval are rounded to whole epochs where ``every`` is at least 1.

        The ramp has at least one step.
        """
        unit = steps_per_epoch if self.every >= 1 else 1
        total = num_epochs * steps_per_epoch // unit
        self._steps_per_epoch = steps_per_epoch
        self._interval = max(1, round(self.every * steps_per_epoch / unit)) * unit
        self._start = min(int(self.start * total + 1e-9), max(0, total - 1)) * unit
        self._end = max(self._start + unit, int(self.end * total + 1e-9) * unit)

    def sparsity(self) -> float:
        """What is to be zero now."""
        return cubic_sparsity(
            int(self.num_steps),
            initial=self.initial,
            final=self.final,
            start=self._start,
            end=self._end,
            every=self._interval,
        )

    def step(self) -> bool:
        """Count a step; True if an update is due before the next one, and that one is in the same epoch."""
        self.num_steps += 1
        now = int(self.num_steps)
        return now % self._steps_per_epoch != 0 and (now - self._start) % self._interval == 0
