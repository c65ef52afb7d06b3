"""Weights and structure at once: units with Bernoulli gates under a flattening hyper-prior, removed while training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.budget import Choice, describe
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
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
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart, split_decay
from prunebench.core.task import Batch, Classification, Task
from prunebench.errors import UserError
from prunebench.layers.bernoulli_gates import bernoulli_gates, hard_gates
from prunebench.measure.batch_norm import refreshed
from prunebench.methods.bases import gate_gradients
from prunebench.methods.bases.gate_gradients import GateGradient
from prunebench.methods.bases.gated_readers import GatedUnits, without_gates
from prunebench.methods.bases.single_readers import unit_places
from prunebench.methods.bases.unit_prices import ComplexityPrice, FlatPrice, Price, per_layer
from prunebench.surgery.narrow import Narrowed
from prunebench.surgery.zero import restore

log = logging.getLogger("prunebench")

PRICES = ("flat", "complexity")
MAX_EXACT = 12
"""Gates that ``theta_grad=exact`` takes at most: each step makes 2 ^ gates passes."""
UNDECIDED = (0.1, 0.9)
"""A theta between them has not made up its mind."""


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What the phase in progress consists of; it follows from the run.

    Attributes:
        units: where the gates are. ``price``: of the units that are left.
        rate: step size of theta.
        run, phase: for the data of the phase.
    """

    units: GatedUnits
    price: Price
    rate: float
    run: Run
    phase: Phase


@validated
class SimultaneousVI(Method):
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
        log_gamma: nats per unit, > 0; or a table of layers (names and globs), which must name each gated one.
        price: ``flat`` = log gamma; ``complexity`` = ``cost_weight`` x the expected share of MACs and parameters.
        cost_weight: nu of ``complexity``, nats per example; ``macs_share``: a, the share of MACs beside parameters.
        lambda_w: precision of the weights' prior; None = the phase's weight decay, which is lambda_w / N.
        theta_start: of all gates. ``kappa``: step size in units of the price and the length of the training.
        theta_grad: ``ste`` = straight-through (biased where the loss is curved in xi), ``arm`` = two passes, unbiased;
            ``exact`` = all states of at most 12 gates, for tests.
        xi_per: a draw for each ``example`` or one for the ``batch``.
        theta_tol: a unit goes at the end of an epoch if its theta is at most this, and has been in the last
            ``patience`` steps.
        prune_every: steps between removals; None = the end of each epoch. None is made in the first epoch.
        fix_fraction: share of the epochs, at the end, that is trained with rounded theta.
        evaluate: gates in validations before: ``mean`` = theta, ``hard`` = rounded. ``accuracy_hard`` is logged anyway.
        layers: names and globs of the layers whose units have gates.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous"})
    sizes_given = False
    narrows = True
    objective: ClassVar[str] = "elbo"
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
        super().__init__()
        self.log_gamma, self.price, self.cost_weight, self.macs_share = log_gamma, price, cost_weight, macs_share
        self.lambda_w, self.theta_start, self.kappa = lambda_w, theta_start, kappa
        self.theta_grad, self.xi_per = theta_grad, xi_per
        self.theta_tol, self.patience, self.prune_every, self.fix_fraction = (
            theta_tol,
            patience,
            prune_every,
            fix_fraction,
        )
        self.evaluate, self.layers = evaluate, layers
        self._training: _Training | None = None
        self._macs = 0  # of the net as it is now, for one sample: follows from its shapes
        # theta is rounded; share of undecided ones before; MACs of the training so far; samples that it has seen
        self.register_buffer("snapped", torch.zeros((), dtype=torch.bool))
        self.register_buffer("undecided", torch.zeros(()))
        self.register_buffer("spent", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        units, _ = self._units(run)
        per_layer(self.log_gamma, units.places, what="method.log_gamma")
        total = sum(place.units for place in units.places.values())
        if self.theta_grad == "exact" and total > MAX_EXACT:
            raise UserError(
                f"method.theta_grad=exact tries all states of the gates, and this net has {total}; {MAX_EXACT} are "
                "allowed: use ste or arm"
            )
        if self.theta_grad == "arm" and self.xi_per == "example" and not isinstance(run.task, Classification):
            raise UserError(
                "method.theta_grad=arm with method.xi_per=example needs the loss of each example, which only "
                "classification has; use method.xi_per=batch"
            )
        log.info("gates: %d on %s", total, ", ".join(units.places))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        units, _ = self._units(run)
        if not bernoulli_gates(net):
            net = units.gated(net, start=self.theta_start, per_example=self.xi_per == "example")
            for counter in (self.snapped, self.undecided, self.spent, self.seen):
                counter.zero_()
        price = self._price(units, run)
        rate = self.kappa / (price.mean(self.theta_start) * run.clock().num_steps)
        self._training = _Training(units=units, price=price, rate=rate, run=run, phase=run.phase)
        self._count(net)
        return net

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        """Plain SGD for theta: an optimiser that normalises its gradient would take the price away."""
        groups = split_decay([p for p in net.parameters() if p.requires_grad], phase)
        if self.lambda_w is not None:
            decay = self.lambda_w / self._in_training.run.data.num_train
            groups = [{**group, "weight_decay": group.get("weight_decay", decay)} for group in groups]
        thetas = [gate.theta for gate in bernoulli_gates(net).values()]
        plain = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        return apart(groups, thetas, **plain, lr=self._in_training.rate, lr_schedule="constant", clip=False)

    # -- in training

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._count(net)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        gates = self._in_training.units.of(net)
        members, samples = list(gates.values()), batch[1].numel()
        self.seen += samples
        self.spent += self._macs * samples * gate_gradients.num_passes(members, self.theta_grad)
        price = self._in_training.price(gates)
        each = self.xi_per == "example"
        return gate_gradients.terms(net, batch, task, members, price, how=self.theta_grad, each=each)

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> Sequence[Narrowed] | None:
        gates = self._in_training.units.of(net)
        if self.snapped:
            for gate in gates.values():
                gate.theta.fill_(1.0)
            return None
        for gate in gates.values():
            gate.theta.clamp_(0.0, 1.0)
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
            "undecided": float(self.undecided) if self.snapped else _undecided(thetas),
            "macs": float(self._macs),
            "train_macs": float(self.spent),
        }
        hard = gate_gradients.hard_accuracy(net, self._in_training.run)
        return found if hard is None else {**found, "accuracy_hard": hard}

    def selectable(self, net: nn.Module) -> bool:
        return bool(self.snapped)

    def spent_macs(self) -> int:
        return int(self.spent)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        if self.evaluate == "mean":
            return super().predict(net, batch, task)
        with hard_gates(net):
            return super().predict(net, batch, task)

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

    @property
    def _in_training(self) -> _Training:
        assert self._training is not None, "attach comes first"
        return self._training

    def _units(self, run: Run) -> tuple[GatedUnits, list[dict[str, str]]]:
        """The gates, and the layers without any, with the reason.

        Raises:
            UserError: there is no place for a gate.
        """
        places, refused = unit_places(run.graph)
        if not places:
            raise UserError("no layer of this net has units that one layer alone reads, so that none can have a gate")
        chosen = match_layers(self.layers, places, what="method.layers")
        return GatedUnits({name: places[name] for name in chosen}, run.graph), refused

    def _price(self, units: GatedUnits, run: Run) -> Price:
        sizes = {name: place.units for name, place in units.items()}
        if self.price == "flat":
            values = per_layer(self.log_gamma, sizes, what="method.log_gamma")
            return FlatPrice({name: value / run.data.num_train for name, value in values.items()}, sizes)
        return ComplexityPrice(run.graph, sizes, weight=self.cost_weight, macs_share=self.macs_share)

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
        self.undecided.fill_(_undecided(torch.cat([gate.theta for gate in gates.values()])))
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


def _undecided(thetas: Tensor) -> float:
    return float(((thetas > UNDECIDED[0]) & (thetas < UNDECIDED[1])).float().mean())
