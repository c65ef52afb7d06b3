"""Automated gradual pruning of the components of factorised layers, by the entries of a trained diagonal."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.budget.gradual import CubicRamp, num_zero
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, FractionBelowOne, NonNegativeFloat, PhaseShare, PositiveFloat
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.layers.components import Components
from prunebench.layers.convert import FactorInit, FactorRank, gated_layers
from prunebench.layers.gated import DiagonalGate
from prunebench.methods.bases import component_gates

log = logging.getLogger("prunebench")
DIAGONALS = ("norm", "uniform")


@validated
class AgpStructured(Method):
    """The structured AGP baseline of Wang, Wohlwend and Lei 2020: W = Q diag(g) P, the smallest |g_k| go.

    g is trained like a weight. At each update the entries of smallest absolute value of each layer are set to
    0 for good, as many as :class:`prunebench.budget.gradual.CubicRamp` says; in the end their components are
    removed and the other entries are folded into Q. Layers and factors are those of :class:`FlopL0` with the same
    options.

    Args:
        target_sparsity: share of the components of each layer that goes in the end, in [0, 1); this is also the share
            of the layer's parameters.
        initial_sparsity: the same at the start of the ramp.
        start, end: of the ramp, as shares of the phase.
        every: epochs from one update to the next; below 1, steps within an epoch.
        diagonal: where g starts: "norm" = |p_k| |q_k| of each component, taken out of the factors: the net stays
            the same; "uniform" = U(-1, 1), as in the official script, which trains from scratch.
        l1: weight of the penalty sum |g|.
        gate_lr: peak learning rate of g; null = that of the weights.
        layers, skip, plain, rank, init, merge: as in :class:`FlopL0`.

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
        diagonal: Annotated[str, Among(("norm", "uniform"))] = "norm",
        l1: NonNegativeFloat = 0.0,
        gate_lr: NonNegativeFloat | None = None,
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] | None = None,
        plain: component_gates.Plain = "factorise",
        rank: FactorRank = "preserve",
        init: FactorInit = "svd",
        merge: bool = True,
    ) -> None:
        super().__init__()
        self.ramp = CubicRamp(initial=initial_sparsity, final=target_sparsity, start=start, end=end, every=every)
        self.target_sparsity = target_sparsity
        self.diagonal, self.l1, self.gate_lr = diagonal, l1, gate_lr
        self.layers, self.skip, self.merge = layers, skip, merge
        self.options: dict[str, Any] = {"plain": plain, "rank": rank, "init": init}
        self.names: list[str] = []

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        self.names = component_gates.choose_layers(net, run.example, layers=self.layers, skip=self.skip)
        log.info("layers to gate: %s", ", ".join(self.names))

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        net = self.attach(net, run)
        self._update(net, run.clock())
        return Extracted(net=net)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        run.seed_all("gates")
        return component_gates.install(net, self.names, make_gate=self._make_gate, **self.options)

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        return component_gates.param_groups(net, phase, gate_lr=self.gate_lr)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        terms = task.losses(net, batch)
        gates = self._gates(net)
        if not (self.l1 and gates):
            return terms
        return {**terms, "l1": self.l1 * torch.stack([gate().abs().sum() for gate in gates]).sum()}

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._update(net, clock)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        now = clock.at(clock.step + 1)
        if self.ramp.is_due(now.step, now.num_epochs, now.steps_per_epoch):
            self._update(net, now)
        else:
            self._zero(net)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"sparsity": component_gates.sparsity(net)}

    def selectable(self, net: nn.Module) -> bool:
        return component_gates.sparsity(net) > self.target_sparsity - component_gates.TOLERANCE

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        return component_gates.extract(net, run, target=self.target_sparsity, merge=self.merge)

    def _make_gate(self, layer: Components) -> DiagonalGate:
        gate = DiagonalGate(size=layer.num_components)
        if self.diagonal == "uniform":
            nn.init.uniform_(gate.value, -1.0, 1.0)
        else:
            with torch.no_grad():
                gate.value.copy_(layer.take_norms())
        return gate

    def _gates(self, net: nn.Module) -> list[DiagonalGate]:
        return [layer.gate for _, layer in gated_layers(net) if isinstance(layer.gate, DiagonalGate)]

    @torch.no_grad()
    def _update(self, net: nn.Module, clock: Clock) -> None:
        sparsity = self.ramp.sparsity(clock.step, clock.num_epochs, clock.steps_per_epoch)
        for gate in self._gates(net):
            gate.live &= criteria.largest(gate.value, num_zero(sparsity, gate.size))
        self._zero(net)

    @torch.no_grad()
    def _zero(self, net: nn.Module) -> None:
        # the mask in the forward pass hides them; at 0 they also stay the smallest
        for gate in self._gates(net):
            gate.value.mul_(gate.live)
