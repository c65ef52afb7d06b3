"""Hidden units with Bernoulli gates under a price, whose chances are learned by SGD beside the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, Fraction, NonNegativeFloat, OpenFraction, PositiveFloat
from prunebench.core.clock import Clock
from prunebench.core.context import Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart, split_decay
from prunebench.core.task import Batch, Classification, Task
from prunebench.errors import UserError
from prunebench.layers.bernoulli_gates import bernoulli_gates, hard_gates
from prunebench.methods.bases import gate_gradients
from prunebench.methods.bases.gate_gradients import GateGradient
from prunebench.methods.bases.gated_readers import GatedUnits
from prunebench.methods.bases.single_readers import unit_places
from prunebench.methods.bases.unit_prices import ComplexityPrice, FlatPrice, Price, per_layer
from prunebench.surgery.narrow import Narrowed

log = logging.getLogger("prunebench")

PRICES = ("flat", "complexity")
MAX_EXACT = 12
"""Gates that ``theta_grad=exact`` takes at most: each step makes 2 ^ gates passes."""


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
class BernoulliUnits(Method):
    """Multiply each hidden unit (each filter) by xi ~ Bernoulli(theta), behind its activation.

    With N training examples and the price of all units at their theta, nats per example,

        E[mean NLL] + lambda_w / 2N |W|^2 + price

    is minimised. theta moves by plain SGD beside the weights' own optimiser and is projected to [0, 1]; its step size
    is such that a unit without any use goes from 1/2 to 0 in ``1 / (2 kappa)`` of the training. Gated are the hidden
    layers whose units one layer alone reads: in residual nets inside the blocks.

    Args:
        log_gamma: nats per unit, > 0; or a table of layers (names and globs), which must name each gated one.
        price: ``flat`` = log gamma; ``complexity`` = ``cost_weight`` x the expected share of MACs and parameters.
        cost_weight: nu of ``complexity``, nats per example; ``macs_share``: a, the share of MACs beside parameters.
        lambda_w: precision of the weights' prior; None = the phase's weight decay, which is lambda_w / N.
        theta_start: of all gates. ``kappa``: step size in units of the price and the length of the training.
        theta_grad: ``ste`` = straight-through (biased where the loss is curved in xi), ``arm`` = two passes, unbiased;
            ``exact`` = all states of at most 12 gates, for tests.
        xi_per: a draw for each ``example`` or one for the ``batch``.
        evaluate: gates in validations: ``mean`` = theta, ``hard`` = rounded.
        layers: names and globs of the layers whose units have gates.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous"})
    sizes_given = False
    objective: ClassVar[str] = "elbo"

    def __init__(
        self,
        *,
        log_gamma: PositiveFloat | Mapping[str, PositiveFloat],
        price: Annotated[str, Among(PRICES)],
        cost_weight: PositiveFloat,
        macs_share: Fraction,
        lambda_w: NonNegativeFloat | None,
        theta_start: OpenFraction,
        kappa: PositiveFloat,
        theta_grad: GateGradient,
        xi_per: Annotated[str, Among(("example", "batch"))],
        evaluate: Annotated[str, Among(("mean", "hard"))],
        layers: Sequence[str],
    ) -> None:
        super().__init__()
        self.log_gamma, self.price, self.cost_weight, self.macs_share = log_gamma, price, cost_weight, macs_share
        self.lambda_w, self.theta_start, self.kappa = lambda_w, theta_start, kappa
        self.theta_grad, self.xi_per = theta_grad, xi_per
        self.evaluate, self.layers = evaluate, layers
        self._training: _Training | None = None

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
        price = self._price(units, run)
        rate = self.kappa / (price.mean(self.theta_start) * run.clock().num_steps)
        self._training = _Training(units=units, price=price, rate=rate, run=run, phase=run.phase)
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

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        gates = self._in_training.units.of(net)
        price, each = self._in_training.price(gates), self.xi_per == "example"
        return gate_gradients.terms(net, batch, task, list(gates.values()), price, how=self.theta_grad, each=each)

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> Sequence[Narrowed] | None:
        for gate in bernoulli_gates(net).values():
            gate.theta.clamp_(0.0, 1.0)
        return None

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        if self.evaluate == "mean":
            return super().predict(net, batch, task)
        with hard_gates(net):
            return super().predict(net, batch, task)

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
