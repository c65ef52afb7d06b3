"""Automated gradual pruning of single weights: the sparsity of each layer rises along a cubic curve in training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.budget.gradual import CubicRamp
from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PhaseShare, PositiveFloat
from prunebench.core.method import Method, match_layers
from prunebench.errors import UserError
from prunebench.methods.bases import component_gates
from prunebench.surgery.plan import Plan

if TYPE_CHECKING:
    from prunebench.run.job import Job

log = logging.getLogger("prunebench")


@validated
class Agp(Method):
    """Zhu and Gupta 2017, "To prune, or not to prune": zero the smallest weights of each layer, more every epoch.

    At each update the weights of smallest absolute value of each chosen layer are zeroed, as many as
    :class:`prunebench.budget.gradual.CubicRamp` says; they stay zero (their gradients are zeroed before each step
    and the weights after it). Convolutions and linear layers count alike, biases and norm layers are left alone.

    Under ``finetune`` the ramp starts from the trained net, the cut of the schedule is its first step; under
    ``simultaneous`` it starts from random or pretrained weights. The counts are honest: shapes and MACs stay, only
    ``nonzero_params`` falls.

    Args:
        target_sparsity: share of the weights of each layer that goes in the end, in [0, 1).
        initial_sparsity: the same at the start of the ramp.
        start, end: of the ramp, as shares of the phase; after it the net trains on.
        every: epochs from one update to the next; below 1, steps within an epoch.
        layers: names and globs.
        skip: the same, of layers that are left alone; null = those that compute the net's output.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = frozenset({"simultaneous", "finetune"})
    objective = "regularised_heuristic"
    sizes_given = False
    live: Tensor | None

    def __init__(
        self,
        *,
        target_sparsity: FractionBelowOne,
        initial_sparsity: FractionBelowOne = 0.05,
        start: PhaseShare = 0.0,
        end: PhaseShare = 0.5,
        every: PositiveFloat = 1,
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.ramp = CubicRamp(initial=initial_sparsity, final=target_sparsity, start=start, end=end, every=every)
        self.target_sparsity = target_sparsity
        self.layers, self.skip = layers, skip
        self.names: list[str] = []
        # bool, the weights of all chosen layers in one row, True where one lives
        self.register_buffer("live", None)

    def check(self, net: nn.Module, job: Job) -> None:
        super().check(net, job)
        found = [name for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
        named = match_layers(self.layers, found, what="method.layers")
        if self.skip is None:
            skipped = component_gates.output_layers(net, job.example, found)
        else:
            skipped = match_layers(self.skip, found, what="method.skip")
        self.names = [name for name in named if name not in skipped]
        if not self.names:
            raise UserError(f"method.layers={list(self.layers)} without method.skip={skipped} leaves no layer to prune")
        log.info("layers to prune: %s", ", ".join(self.names))

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        net = self.attach(copy.deepcopy(net), job)
        self._update(net)
        return net

    def attach(self, net: nn.Module, job: Job) -> nn.Module:
        assert job.phase is not None
        self.ramp.set_length(job.phase.epochs, job.steps_per_epoch(job.phase))
        if self.live is None:
            size = sum(net.get_parameter(f"{name}.weight").numel() for name in self.names)
            self.live = torch.ones(size, dtype=torch.bool)
        return net

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        self._update(net)

    def before_step(self, net: nn.Module) -> None:
        for weight, mask in self._weights(net):
            if weight.grad is not None:
                weight.grad *= mask

    def after_step(self, net: nn.Module) -> None:
        if self.ramp.step():
            self._update(net)
        else:
            self._zero(net)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"sparsity": self._reached()}

    def selectable(self, net: nn.Module) -> bool:
        return self._reached() > self.target_sparsity - component_gates.TOLERANCE

    def extract(self, net: nn.Module, job: Job) -> tuple[nn.Module, Plan]:
        if self.live is not None:
            job.achieved = {
                "target": self.target_sparsity,
                "reached": self._reached(),
                "tolerance": component_gates.TOLERANCE,
                "unit": "share of the weights of the chosen layers that is zero",
                "weights": self.live.numel(),
                "kept_weights": int(self.live.sum()),
            }
        return net, job.plan

    def _reached(self) -> float:
        return 0.0 if self.live is None else 1 - float(self.live.float().mean())

    @torch.no_grad()
    def _update(self, net: nn.Module) -> None:
        sparsity = self.ramp.sparsity()
        for weight, mask in self._weights(net):
            mask &= criteria.largest(weight, int(sparsity * weight.numel() + 1e-9))
        self._zero(net)

    @torch.no_grad()
    def _zero(self, net: nn.Module) -> None:
        for weight, mask in self._weights(net):
            weight.mul_(mask)

    def _weights(self, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The weight of each chosen layer with its mask of the same shape, a view of ``live``."""
        if self.live is None:
            return
        start = 0
        for name in self.names:
            weight = net.get_parameter(f"{name}.weight")
            yield weight, self.live[start : start + weight.numel()].view(weight.shape)
            start += weight.numel()
