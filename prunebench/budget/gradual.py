"""How much goes when, if a net is pruned in small steps while it trains."""

from __future__ import annotations

from dataclasses import dataclass

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


def num_zero(sparsity: float, size: int) -> int:
    """How many of ``size`` weights or components are zero at a sparsity: rounded down, as in the official code.

    IntelLabs/distiller, distiller/pruning/level_pruner.py: ``int(desired_sparsity * param.numel())``.
    """
    return int(sparsity * size + 1e-9)  # 0.3 * 10 is 2.9999999999999996


@validated
@dataclass(frozen=True, kw_only=True)
class CubicRamp:
    """The sparsity at each step of a phase; the time is that of :func:`cubic_sparsity`, in steps.

    With ``every = 1`` the updates are those of Distiller, one at the start of each epoch. Start, end and interval are
    rounded to whole epochs where ``every`` is at least 1; the ramp has at least one step.

    Attributes:
        initial, final: sparsities, 0 <= initial <= final < 1.
        start, end: of the ramp, as shares of the phase.
        every: epochs from one update to the next; below 1 there are several in an epoch.

    Raises:
        UserError: a value is out of range.
    """

    initial: FractionBelowOne
    final: FractionBelowOne
    start: PhaseShare
    end: PhaseShare
    every: PositiveFloat

    def __post_init__(self) -> None:
        if self.initial > self.final:
            raise UserError(
                f"method.initial_sparsity={self.initial!r} must not be above method.target_sparsity={self.final!r}"
            )
        if self.start >= self.end:
            raise UserError(f"method.start={self.start!r} must be below method.end={self.end!r}")

    def sparsity(self, step: int, num_epochs: int, steps_per_epoch: int) -> float:
        """What is to be zero in optimiser step ``step`` (from 0) of a phase of that length."""
        start, end, every = self._in_steps(num_epochs, steps_per_epoch)
        return cubic_sparsity(step, initial=self.initial, final=self.final, start=start, end=end, every=every)

    def is_due(self, step: int, num_epochs: int, steps_per_epoch: int) -> bool:
        """Whether there is an update before step ``step`` in the middle of an epoch (each epoch begins with one)."""
        start, _, every = self._in_steps(num_epochs, steps_per_epoch)
        return step % steps_per_epoch != 0 and (step - start) % every == 0

    def _in_steps(self, num_epochs: int, steps_per_epoch: int) -> tuple[int, int, int]:
        """Start, end and interval."""
        unit = steps_per_epoch if self.every >= 1 else 1
        total = num_epochs * steps_per_epoch // unit
        start = min(int(self.start * total + 1e-9), max(0, total - 1)) * unit
        end = max(start + unit, int(self.end * total + 1e-9) * unit)
        return start, end, max(1, round(self.every * steps_per_epoch / unit)) * unit
