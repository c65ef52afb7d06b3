"""Remove rank-one components of factorised layers with hard-concrete gates and a learned Lagrangian."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import NonNegativeFloat, OpenFraction, PhaseShare
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.layers import hard_concrete
from prunebench.layers.convert import FactorInit, FactorRank, gated_layers
from prunebench.layers.gated import Gated, HardConcreteGate
from prunebench.methods.bases import component_gates

log = logging.getLogger("prunebench")


@validated
class FlopL0(Method):
    """Wang, Wohlwend and Lei 2020 (FLOP): weights, gates and two multipliers are trained together.

    Each chosen layer is a product Q diag(z) P; a hard-concrete gate z_k is drawn for each rank-one component, once for
    each forward pass. Training minimises over weights and gates, and maximises over the multipliers (section 3.3)::

        task loss + lambda_1 (s - t) + lambda_2 (s - t)^2

    s is the expected share of the prunable parameters that is removed, t the target, which may rise linearly. The
    multipliers start at 0 and may have any sign; they have no weight decay and are not clipped. There is no further
    fine-tuning: after the last step the components whose gate is 0 in evaluation are removed, and the soft values of
    the other gates are folded into Q.

    Under ``finetune`` the cut of the schedule is the factorisation of the trained layers (which loses what the rank
    does not hold), and gates are trained after it; ``simultaneous`` does all at once. A model's own factored pairs keep
    their weights.

    What the official code does and this does not: it counts batches and not updates in the warm-up of the target, and
    its Transformer-XL script lets hardly pruned early epochs block the choice of the best one
    (examples/enwik8_tf/train.py:620-629). Here, as in its SRU script, an epoch can be the best one if its sparsity is
    above the target minus 0.02.

    Args:
        target_sparsity: share of the prunable parameters that goes, in (0, 1). Prunable are the parameters of the
            components: (in + out) times the rank for two factors, in times out with ``plain="inputs"``.
        layers: names and globs of linear layers, convolutions, and factored pairs.
        skip: the same, of layers that are left alone; null = those that compute the net's output.
        plain: what happens to a layer that is no factored pair: "factorise" it, or gate its "inputs" (linear layers;
            on a net without pairs this is the paper's pruning of neurons).
        rank: of new factors: "preserve" (as many parameters as before), "full", or a number.
        init: of new factors: "svd" of the present weights, or "random" as in the paper.
        drop_rate: where the gates start, in (0, 1): 0.5 = half open, 0.05 = nearly all open.
        gate_lr: peak learning rate of the gates; null = that of the weights (train_enwik8.py:353-362).
        multiplier_lr: peak learning rate of the multipliers. Adam moves them by about so much a step, and the target is
            reached if they can grow to several times the change of the task loss within the run; the official scripts
            have 1e-4 to 1e-3 and hundreds of thousands of steps.
        target_warmup: share of the phase's steps in which the target rises from 0, in [0, 1]; 0 = not at all (SRU).
        merge: give one dense layer where the remaining factors would be larger.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = frozenset({"simultaneous", "finetune"})
    objective = "regularised_heuristic"
    sizes_given = False

    def __init__(
        self,
        *,
        target_sparsity: OpenFraction,
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] | None = None,
        plain: component_gates.Plain = "factorise",
        rank: FactorRank = "preserve",
        init: FactorInit = "svd",
        drop_rate: OpenFraction = 0.05,
        gate_lr: NonNegativeFloat | None = None,
        multiplier_lr: NonNegativeFloat = 1.0,
        target_warmup: PhaseShare = 0.5,
        merge: bool = True,
    ) -> None:
        super().__init__()
        self.target_sparsity = target_sparsity
        self.layers, self.skip = layers, skip
        self.options: dict[str, Any] = {"plain": plain, "rank": rank, "init": init}
        self.drop_rate = drop_rate
        self.gate_lr, self.multiplier_lr = gate_lr, multiplier_lr
        self.target_warmup = target_warmup
        self.merge = merge
        self.names: list[str] = []
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.target = target_sparsity  # the sparsity aimed at in the step in progress: it follows from the clock

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        self.names = component_gates.choose_layers(net, run.example, layers=self.layers, skip=self.skip)
        log.info("layers to gate: %s", ", ".join(self.names))

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        run.seed_all("factors")
        return Extracted(net=component_gates.install(net, self.names, make_gate=None, **self.options))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        run.seed_all("gates")
        gated = component_gates.install(
            net,
            self.names,
            make_gate=lambda layer: HardConcreteGate(size=layer.num_components, drop_rate=self.drop_rate),
            **self.options,
        )
        log.info("%d parameters under gates", sum(layer.num_params for _, layer in gated_layers(gated)))
        return gated

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        multipliers = {
            "params": [self.multipliers],
            "lr": self.multiplier_lr,
            "maximize": True,
            "weight_decay": 0.0,
            "clip": False,
        }
        return [*component_gates.param_groups(net, phase, gate_lr=self.gate_lr), multipliers]

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        terms = task.losses(net, batch)
        layers = [layer for _, layer in gated_layers(net)]
        if not layers:
            return terms
        return {**terms, "lagrangian": lagrangian(self.multipliers, expected_sparsity(layers), self.target)}

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self.target = self.target_at(clock.step, clock.num_steps)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.target = self.target_at(clock.step + 1, clock.num_steps)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        layers = [layer for _, layer in gated_layers(net)]
        one, two = self.multipliers.tolist()
        return {
            "target_sparsity": self.target,
            "expected_sparsity": float(expected_sparsity(layers).detach()),
            "sparsity": component_gates.sparsity(net),
            "undecided": undecided(layers),
            "lambda_1": one,
            "lambda_2": two,
        }

    def selectable(self, net: nn.Module) -> bool:
        return component_gates.sparsity(net) > self.target_sparsity - component_gates.TOLERANCE

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        return component_gates.extract(net, run, target=self.target_sparsity, merge=self.merge)

    def target_at(self, step: int, num_steps: int) -> float:
        """The sparsity aimed at in the update number k = ``step`` + 1: t_final min(1, k / W), W > 0."""
        warmup = round(self.target_warmup * num_steps)
        return self.target_sparsity * min(1.0, (step + 1) / warmup) if warmup else self.target_sparsity


def expected_sparsity(layers: Sequence[Gated]) -> Tensor:
    """Expected share of the prunable parameters that the gates remove, a differentiable scalar (section 3.3)."""
    kept = []
    for layer in layers:
        assert isinstance(layer.gate, HardConcreteGate)
        kept.append(layer.gate.expected_open() * layer.layer.params_per_component)
    return 1 - torch.stack(kept).sum() / sum(layer.num_params for layer in layers)


@torch.no_grad()
def undecided(layers: Sequence[Gated]) -> float:
    """Share of the gates that are open in 10 to 90 % of the draws; at the end the cut decides on them by number alone.

    Many are left where the multipliers move faster than gates differ: all of them are then pushed alike.
    """
    gates = [layer.gate for layer in layers]
    chances = [hard_concrete.prob_nonzero(gate.log_alpha) for gate in gates if isinstance(gate, HardConcreteGate)]
    chance = torch.cat(chances)
    return float(((chance > 0.1) & (chance < 0.9)).float().mean())


def lagrangian(multipliers: Tensor, sparsity: Tensor, target: float) -> Tensor:
    """lambda_1 (s - t) + lambda_2 (s - t)^2, a scalar.

    Args:
        multipliers: lambda_1 and lambda_2, ``[2]``.
        sparsity: s, a scalar.
    """
    gap = sparsity - target
    return multipliers[0] * gap + multipliers[1] * gap.square()
