"""Where a phase is: the only step counter."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The optimiser step in progress; at the start of an epoch its first one, at the end its last one.

    It follows from the epoch and the batch alone, so that a resumed phase goes on with the same numbers: a method
    that reads it has nothing to count.

    Attributes:
        step: optimiser steps of the phase before this one, from 0.
        num_steps: of the whole phase.
        epoch: from 0.
        num_epochs: of the whole phase.
        lr: learning rate of this step, of the first parameter group.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    lr: float

    @classmethod
    def first(cls, *, num_epochs: int, steps_per_epoch: int, lr: float) -> Clock:
        """The first step of a phase."""
        return cls(step=0, num_steps=num_epochs * steps_per_epoch, epoch=0, num_epochs=num_epochs, lr=lr)

    def at(self, step: int) -> Clock:
        """The same phase at another step."""
        return replace(self, step=step, epoch=step // self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        return self.num_steps // self.num_epochs
