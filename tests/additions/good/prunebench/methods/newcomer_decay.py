"""A regulariser that removes nothing: an L1 penalty that grows with each step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError


class GrowingDecay(Method):
    """Adds ``strength * steps * |weights|`` to the loss.

    Args:
        strength: of the penalty after one step, at least 0.
    """

    schedules = frozenset({"simultaneous"})

    def __init__(self, *, strength: float) -> None:
        super().__init__()
        if strength < 0:
            raise UserError(f"method.strength must be at least 0, got {strength}")
        self.strength = strength
        self.register_buffer("num_steps", torch.zeros(()))  # a buffer, so that a resumed run goes on counting

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        self.num_steps += 1
        size = torch.stack([p.abs().sum() for p in net.parameters()]).sum()
        return {**task.losses(net, batch), "l1": self.strength * self.num_steps * size}
