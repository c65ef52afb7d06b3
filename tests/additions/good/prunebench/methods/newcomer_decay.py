"""A regulariser that removes nothing: an L1 penalty that grows with each step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import NonNegativeFloat
from prunebench.core.clock import Clock
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task


@validated
class GrowingDecay(Method):
    """Adds ``strength * steps * |weights|`` to the loss.

    Args:
        strength: of the penalty in the first step, at least 0.
    """

    schedules = frozenset({"simultaneous"})

    def __init__(self, *, strength: NonNegativeFloat) -> None:
        super().__init__()
        self.strength = strength
        self.now = strength

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self.now = self.strength * (clock.step + 1)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.now = self.strength * (clock.step + 2)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        size = torch.stack([p.abs().sum() for p in net.parameters()]).sum()
        return {**task.losses(net, batch), "l1": self.now * size}
