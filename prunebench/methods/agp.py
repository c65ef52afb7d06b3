"""Automated gradual pruning of single weights: the sparsity of each layer rises along a cubic curve in training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from prunebench import criteria
from prunebench.budget.gradual import CubicRamp, num_zero
from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PhaseShare, PositiveFloat
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.errors import UserError
from prunebench.layers.own_weight import has_own_weight
from prunebench.methods.bases import component_gates
from prunebench.methods.bases.weight_masks import WeightMasks

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
        self.masks = WeightMasks()

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        kinds = nn.Linear | nn.modules.conv._ConvNd
        found = [name for name, m in net.named_modules() if isinstance(m, kinds) and has_own_weight(m)]
        named = match_layers(self.layers, found, what="method.layers")
        if self.skip is None:
            skipped = component_gates.output_layers(net, run.example, found)
        else:
            skipped = match_layers(self.skip, found, what="method.skip")
        self.masks.names = [name for name in named if name not in skipped]
        if not self.masks.names:
            raise UserError(f"method.layers={list(self.layers)} without method.skip={skipped} leaves no layer to prune")
        log.info("layers to prune: %s", ", ".join(self.masks.names))

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        net = self.attach(copy.deepcopy(net), run)
        self._update(net, run.clock())
        return Extracted(net=net)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self.masks.start(net)
        return net

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._update(net, clock)

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero_gradients(net)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        now = clock.at(clock.step + 1)
        if self.ramp.is_due(now.step, now.num_epochs, now.steps_per_epoch):
            self._update(net, now)
        else:
            self.masks.zero(net)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"sparsity": self._reached()}

    def selectable(self, net: nn.Module) -> bool:
        return self._reached() > self.target_sparsity - component_gates.TOLERANCE

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if not self.masks.num_weights:
            return Extracted(net=net)
        achieved = {
            "target": self.target_sparsity,
            "reached": self._reached(),
            "tolerance": component_gates.TOLERANCE,
            "unit": "share of the weights of the chosen layers that is zero",
            "weights": self.masks.num_weights,
            "kept_weights": self.masks.num_live,
        }
        return Extracted(net=net, achieved=achieved)

    def _reached(self) -> float:
        live = self.masks.live
        return 0.0 if live is None else 1 - float(live.float().mean())

    @torch.no_grad()
    def _update(self, net: nn.Module, clock: Clock) -> None:
        sparsity = self.ramp.sparsity(clock.step, clock.num_epochs, clock.steps_per_epoch)
        for weight, mask in self.masks.pairs(net):
            mask &= criteria.largest(weight, num_zero(sparsity, weight.numel()))
        self.masks.zero(net)
