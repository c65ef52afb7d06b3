"""Weights and structure at once: units with Bernoulli gates under a flattening hyper-prior, removed while training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.budget import Choice, describe
from prunebench.config.arguments import validated
from prunebench.config.ranges import (
    Among,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    Range,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.task import Batch, Task
from prunebench.layers.bernoulli_gates import bernoulli_gates, undecided
from prunebench.measure.batch_norm import refreshed
from prunebench.methods.bases import gate_gradients
from prunebench.methods.bases.bernoulli_units import PRICES, BernoulliUnits
from prunebench.methods.bases.gate_gradients import GateGradient
from prunebench.methods.bases.gated_readers import without_gates
from prunebench.surgery.narrow import Narrowed
from prunebench.surgery.zero import restore

log = logging.getLogger("prunebench")


@validated
class SimultaneousVI(BernoulliUnits):
    """Guenter, Sideris, arXiv 2205.04650; price by complexity after arXiv 2411.09127. No official code is known.

    Each hidden unit (each filter) is multiplied by xi ~ Bernoulli(theta), behind its activation. Weights have a
    Gaussian prior and the parameter of the Bernoulli prior a hyper-prior under which, once it is optimised out, a unit
    costs a constant log gamma nats per unit of theta. With N training examples

        J = E[mean NLL] + lambda_w / 2N |W|^2 + 1/N sum of log gamma x theta

    is affine in each theta, so that its minima have theta in {0, 1}. theta moves by plain SGD beside the weights' own
    optimiser and is projected to [0, 1]; its step size is such that a unit without any use goes from 1/2 to 0 in
    ``1 / (2 kappa)`` of the training. Units whose theta has reached 0 are removed for good while the net trains: rows,
    columns, norms, and the optimiser's momenta and moments with them, so that the rest of the training is cheaper.
    For the last epochs theta is rounded, batch norms are renewed by a pass over the training data, and the weights are
    fine-tuned without draws. The final net is deterministic.

    Gated are the hidden layers whose units one layer alone reads: in residual nets inside the blocks.

    Only the abstracts of the papers could be read. From them: gates, hyper-prior, vertices, projected SGD, removal
    while training. Chosen here: the estimators, step size, start, times, rounding and fine-tuning.

    Args:
        theta_tol: a unit goes at the end of an epoch if its theta is at most this, and has been in the last
            ``patience`` steps.
        prune_every: steps between removals; None = the end of each epoch. None is made in the first epoch.
        fix_fraction: share of the epochs, at the end, that is trained with rounded theta.
        evaluate: gates in validations before: ``mean`` = theta, ``hard`` = rounded. ``accuracy_hard`` is logged anyway.
        **common: the other arguments of :class:`~prunebench.methods.bases.bernoulli_units.BernoulliUnits`.

    Raises:
        UserError: an option outside its values.
    """

    narrows = True
    snapped: Tensor
    undecided: Tensor
    spent: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        log_gamma: PositiveFloat | Mapping[str, PositiveFloat],
        price: Annotated[str, Among(PRICES)] = "flat",
        cost_weight: PositiveFloat = 0.3,
        macs_share: Fraction = 0.5,
        lambda_w: NonNegativeFloat | None = None,
        theta_start: OpenFraction = 0.5,
        kappa: PositiveFloat = 4.0,
        theta_grad: GateGradient = "ste",
        xi_per: Annotated[str, Among(("example", "batch"))] = "example",
        theta_tol: Annotated[float, Range(low=0, below=0.5)] = 1e-3,
        patience: NonNegativeInt = 0,
        prune_every: PositiveInt | None = None,
        fix_fraction: FractionBelowOne = 0.1,
        evaluate: Annotated[str, Among(("mean", "hard"))] = "mean",
        layers: Sequence[str] = ("*",),
    ) -> None:
        super().__init__(
            log_gamma=log_gamma,
            price=price,
            cost_weight=cost_weight,
            macs_share=macs_share,
            lambda_w=lambda_w,
            theta_start=theta_start,
            kappa=kappa,
            theta_grad=theta_grad,
            xi_per=xi_per,
            evaluate=evaluate,
            layers=layers,
        )
        self.theta_tol, self.patience = theta_tol, patience
        self.prune_every, self.fix_fraction = prune_every, fix_fraction
        self._macs = 0  # of the net as it is now, for one sample: follows from its shapes
        # theta is rounded; share of undecided ones before; MACs of the training so far; samples that it has seen
        self.register_buffer("snapped", torch.zeros((), dtype=torch.bool))
        self.register_buffer("undecided", torch.zeros(()))
        self.register_buffer("spent", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    # -- before training

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        begun = bool(bernoulli_gates(net))
        net = super().attach(net, run)
        if not begun:
            for counter in (self.snapped, self.undecided, self.spent, self.seen):
                counter.zero_()
        self._count(net)
        return net

    # -- in training

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._count(net)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        gates, samples = list(bernoulli_gates(net).values()), batch[1].numel()
        self.seen += samples
        self.spent += self._macs * samples * gate_gradients.num_passes(gates, self.theta_grad)
        return super().losses(net, batch, task)

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> Sequence[Narrowed] | None:
        gates = self._in_training.units.of(net)
        if self.snapped:
            for gate in gates.values():
                gate.theta.fill_(1.0)
            return None
        super().after_step(net, clock)
        for gate in gates.values():
            gate.low.copy_(torch.where(gate.theta <= self.theta_tol, gate.low + 1, 0))
        done = clock.step + 1
        if done == self._last_drawn_epoch(clock) * clock.steps_per_epoch:
            return self._snap(net, clock)
        if clock.epoch == 0 or done % (self.prune_every or clock.steps_per_epoch):
            return None
        return self._remove(net, {name: gate.low < max(1, self.patience) for name, gate in gates.items()})

    def report(self, net: nn.Module) -> Mapping[str, float]:
        thetas = torch.cat([gate.theta.detach() for gate in self._in_training.units.of(net).values()])
        found = {
            "units": float(len(thetas)),
            "mean_theta": float(thetas.mean()),
            "undecided": float(self.undecided) if self.snapped else undecided(thetas),
            "macs": float(self._macs),
            "train_macs": float(self.spent),
        }
        hard = gate_gradients.hard_accuracy(net, self._in_training.run)
        return found if hard is None else {**found, "accuracy_hard": hard}

    def selectable(self, net: nn.Module) -> bool:
        return bool(self.snapped)

    def spent_macs(self) -> int:
        return int(self.spent)

    # -- afterwards

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if not bernoulli_gates(net):
            return Extracted(net=net)
        units, refused = self._units(run)
        plan = units.plan(net)
        whole = [
            {"layer": name, "reason": "all of its units have kept a theta of at least 0.5"}
            for name in units.places
            if name not in plan.keep
        ]
        dense = restore(run.template, run.graph, plan, without_gates(net).cpu())
        achieved = describe(plan, list(units.places), run.graph)
        return run.cut(dense, run.choose(lambda: Choice(plan, whole + refused, achieved)))

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        """``undecided``: share of the theta in (0.1, 0.9) before they were rounded; ``train_macs`` of the phase."""
        if not self.snapped:
            return {}
        units, _ = self._units(run)
        kept = {name: len(run.plan.keep.get(name, range(place.units))) for name, place in units.items()}
        whole = 3 * run.base.cost.macs * int(self.seen)
        return {
            "undecided": float(self.undecided),
            "train_macs": int(self.spent),
            "train_macs_share": int(self.spent) / whole,
            "kept": kept,
        }

    # -- helpers

    def _count(self, net: nn.Module) -> None:
        at = self._in_training
        self._macs = at.run.graph.macs(at.units.plan(net)) // at.run.base.samples

    def _last_drawn_epoch(self, clock: Clock) -> int:
        """How many epochs are trained with draws; the first one is in any case."""
        return max(1, clock.num_epochs - math.ceil(round(self.fix_fraction * clock.num_epochs, 9)))

    def _remove(self, net: nn.Module, stays: Mapping[str, Tensor]) -> list[Narrowed]:
        """Remove units, but the best one of each layer."""
        for name, gate in self._in_training.units.of(net).items():
            if not bool(stays[name].any()):
                stays[name][gate.theta.argmax()] = True
                if len(gate.theta) > 1:
                    log.warning("warning: no unit of %s is worth its price; the one of the highest theta stays", name)
        found = self._in_training.units.remove(net, stays)
        if found:
            self._count(net)
        return found

    def _snap(self, net: nn.Module, clock: Clock) -> list[Narrowed]:
        """Round theta, and renew the batch norms: the mean activations have changed."""
        at = self._in_training
        gates = at.units.of(net)
        self.undecided.fill_(undecided(torch.cat([gate.theta for gate in gates.values()])))
        found = self._remove(net, {name: gate.theta >= 0.5 for name, gate in gates.items()})
        for gate in gates.values():
            gate.theta.fill_(1.0)
        self.snapped.fill_(True)
        if any(isinstance(module, _BatchNorm) and module.track_running_stats for module in net.modules()):
            data, seed = at.run.data, at.run.seed
            batches = data.train(epoch=clock.epoch, seed=seed, batch_size=at.phase.batch_size)
            new = dict(refreshed(net, batches, seed=seed).named_buffers())
            for name, buffer in net.named_buffers():
                buffer.copy_(new[name])
            self.spent += self._macs * data.num_train
        return found
