"""Broken on purpose: it counts in an attribute that no checkpoint holds, and imports another method."""

from __future__ import annotations

from torch import nn

from prunebench.core.clock import Clock
from prunebench.methods.newcomer_decay import GrowingDecay


class Forgetful(GrowingDecay):
    """The growing penalty, which begins anew when a run is resumed."""

    num_steps = 0

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self.now = self.strength * (self.num_steps + 1)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.num_steps += 1
        self.now = self.strength * (self.num_steps + 1)
