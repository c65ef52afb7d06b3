"""Broken on purpose: it counts in an attribute that no checkpoint holds, and imports another method."""

from __future__ import annotations

from prunebench.methods.newcomer_decay import GrowingDecay


class Forgetful(GrowingDecay):
    """The growing penalty, which begins anew when a run is resumed."""

    def __init__(self, *, strength: float) -> None:
        super().__init__(strength=strength)
        del self.num_steps
        self.num_steps = 0
