"""Training of a sparse net that goes back to an early moment of the whole net's training, and on from there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunebench.core.clock import Clock
from prunebench.core.context import Run
from prunebench.core.method import Method, Minimise
from prunebench.core.task import Batch, Task
from prunebench.methods.bases.weight_masks import WeightMasks


class Origin(nn.Module):
    """A buffer for each entry of a net's state dict, norm statistics and output layer among them.

    Their names have "/" where the net's have ".", which no buffer may have.
    """

    @torch.no_grad()
    def take(self, net: nn.Module) -> None:
        """Remember ``net`` as it is now."""
        for name, value in net.state_dict().items():
            key = name.replace(".", "/")
            if key in self._buffers:
                self.get_buffer(key).copy_(value)
            else:
                self.register_buffer(key, value.detach().clone())

    def restore(self, net: nn.Module) -> None:
        """Take ``net`` back, in place, bit for bit."""
        net.load_state_dict({key.replace("/", "."): value for key, value in self.named_buffers()})


class Rewinding(Method):
    """Phases whose dead weights stay 0, and that may begin at a later step than the first.

    A phase walks through the steps before ``first_step`` without training, so that the rate and the order of the
    samples are those of a phase that is trained from its beginning; so its epochs have the same numbers, too.

    Attributes:
        masks: which weights live.
        origin: what a net is rewound to.
        remembered_step: in a phase that is watched, ``origin`` is the net after so many steps; None = not watched.
        first_step: of the phase in progress.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks, self.origin = WeightMasks(), Origin()
        # both follow from the way through the phases, which is walked anew when a run is resumed
        self.remembered_step: int | None = None
        self.first_step = 0
        self._moved = True

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self.masks.zero(net)
        return net

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        return {} if clock.step < self.first_step else super().update(net, batches, task, minimise, clock)

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero_gradients(net)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero(net)
        if clock.step + 1 == self.remembered_step:
            self.origin.take(net)

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._moved = clock.step >= self.first_step

    def selectable(self, net: nn.Module) -> bool:
        return self._moved
