"""Particles of weights and gates that move by SVGD to priors made from trained nets, under a price of open gates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.budget.by_inclusion import LIKELY
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Run
from prunebench.core.method import Method
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.layers.quantile_prior import QuantilePrior
from prunebench.layers.step_gates import step_gates
from prunebench.methods.bases.first_particles import first_particles
from prunebench.methods.bases.gated_groups import GatedGroups, channel_groups, weight_groups
from prunebench.methods.bases.gated_units import open_one
from prunebench.methods.bases.net_ensembles import nets_of
from prunebench.methods.bases.stein_particles import SteinSteps, accuracy, each_particle, inclusion, opened

log = logging.getLogger("prunebench")

RAMP = 1 / 3
"""Share of the particles' steps in which the price of a gate rises to its full value."""
LARGEST_DROP = 0.05
"""Of the validation accuracy under that of the dense net; a larger one stops the price's rise."""
REOPENED = 1e-3
"""Score of the last gate of a layer: just open."""


@validated
class GatedParticles(Method):
    """K nets whose weights and gates move by SVGD on ln p(labels) + beta ln p(weights | gates) + ln p(gates).

    The prior of the weights is that of :class:`~prunebench.layers.quantile_prior.QuantilePrior`, of each layer of the
    trained nets that the particles start from; biases and norms have a flat one. Each group of weights has a gate of 0
    or 1, whose prior has ``price`` nats for an open gate and N(0, spread^2) of its score s. The price rises linearly in
    the first third of the phase and stops rising when validation accuracy is 5 points below the dense net's; a layer
    keeps one gate open.

    After the cut, of which a method says how it is made, weights alone move on.

    Args:
        num_particles: K; 1 = maximum a posteriori.
        particles: what there are K of: "full" = weights and gates, "gates" = gates of one shared set of weights, which
            follows their mean gradient and is one net after the cut.
        init: "noise" = K noisy copies of one net; "ensemble" = K nets, trained from different random weights: a
            particle then keeps a mask of its own, and after the cut moves by itself.
        init_std: noise of the weights, in standard deviations of their layer.
        gate_std: noise of the scores s, which start at 1.
        gate_lr: of the scores.
        price: a, in nats for each open gate, 0 or more.
        cost_aware: a gate's price is a x its MACs / their mean.
        prior_weight: beta, of the weights' log prior.
        spread_weight: T, of the repulsion of weights; 1 = the variance of a Gaussian target, 0.01 = a cold posterior.
        temperature: tau; ``gate_spread``: of the scores' prior.
        mask: "filter" = a group is a filter or hidden unit that one layer alone reads; "weight" = a single weight.
        layers: names and globs of layers with gates.

    Raises:
        UserError: an option outside its values, or two that do not go together.
    """

    objective = "svgd"
    sizes_given = False
    purpose: ClassVar[str]
    """Of the random stream from which the particles' first noise is drawn."""
    price_limit: Tensor

    def __init__(
        self,
        *,
        num_particles: PositiveInt,
        particles: Annotated[str, Among(("full", "gates"))],
        init: Annotated[str, Among(("noise", "ensemble"))],
        init_std: NonNegativeFloat,
        gate_std: NonNegativeFloat,
        gate_lr: NonNegativeFloat,
        price: NonNegativeFloat,
        cost_aware: bool,
        prior_weight: NonNegativeFloat,
        spread_weight: NonNegativeFloat,
        temperature: PositiveFloat,
        gate_spread: PositiveFloat,
        mask: Annotated[str, Among(("filter", "weight"))],
        layers: Sequence[str],
    ) -> None:
        super().__init__()
        if init == "ensemble" and particles == "gates":
            raise UserError("method.particles=gates shares one set of weights; use method.init=noise with it")
        self.num_particles, self.particles, self.init = num_particles, particles, init
        self.init_std, self.gate_std, self.gate_lr = init_std, gate_std, gate_lr
        self.price, self.cost_aware = price, cost_aware
        self.prior_weight, self.spread_weight = prior_weight, spread_weight
        self.temperature, self.gate_spread = temperature, gate_spread
        self.mask, self.layers = mask, layers
        self.priors = nn.ModuleList()
        self.register_buffer("price_limit", torch.ones(()))  # share of the price that is not passed any more
        self.groups = GatedGroups(paths={})
        self.others: list[nn.Module] = []  # further vanilla nets of init=ensemble
        self.hardened = False  # the cut is made
        self._prior_names: list[str] = []  # of the weight tensors, in the order of ``priors``
        self._prices: dict[str, float] = {}  # path of the layer with gates -> nats
        self._steps: SteinSteps | None = None
        self._dense_accuracy: float | None = None
        self._validation: Callable[[], Batches] | None = None

    # -- before the phase

    def find_groups(self, run: Run) -> None:
        """See which groups have gates.

        Raises:
            UserError: none can have one.
        """
        self.groups = (weight_groups if self.mask == "weight" else channel_groups)(run.graph, self.layers)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        if run.phase.pretrain:
            self._steps = None
            return net
        self._steps = SteinSteps(
            num_train=run.data.num_train,
            prior_weight=self.prior_weight,
            spread_weight=self.spread_weight,
            temperature=self.temperature,
            gate_spread=self.gate_spread,
        )
        if self.hardened or isinstance(net, NetEnsemble) or step_gates(net):
            return net
        vanilla = [net, *self.others]
        self._make_priors(vanilla, run)
        self.find_groups(run)
        self._prices = self.groups.prices(self.price, run.graph, by_macs=self.cost_aware)
        self._validation = run.data.validation
        found = run.once("dense_validation", lambda: run.validate(net) if run.data.num_val else {})
        self._dense_accuracy = found.get("accuracy")
        return self._started(vanilla, run)

    # -- optimisation

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        scores = [gate.score for gate in step_gates(net).values()]
        return apart(super().param_groups(net, phase), scores, lr=self.gate_lr, weight_decay=0.0)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        found = [task.losses(particle, batch) for particle in each_particle(net)]
        return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        if self._steps is None:
            return
        nets = nets_of(net)
        priors = self._by_name()
        if self.hardened and self.init == "ensemble":
            for alone in nets:  # of different shapes
                self._steps.turn_weights([alone], priors, {}, scale=len(nets))
        else:
            self._steps.turn_weights(nets, priors, opened(nets, self.groups.paths), scale=len(nets))
        share = min(price_share(clock), float(self.price_limit))
        if step_gates(net):
            self._steps.turn_gates(nets, {path: share * price for path, price in self._prices.items()})

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for gate in step_gates(net).values():
            open_one(gate.score.data, at=REOPENED)

    @torch.no_grad()
    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        rising = price_share(clock) < 1 <= float(self.price_limit)
        if not (step_gates(net) and rising) or self._dense_accuracy is None or self._validation is None:
            return
        if accuracy(net, self._validation()) < self._dense_accuracy - LARGEST_DROP:
            self.price_limit.fill_(price_share(clock))
            log.info("validation accuracy fell: the price of a gate stays at %.2f of %g", self.price_limit, self.price)

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        if not step_gates(net):
            return {}
        nets = nets_of(net)
        likelihood = torch.cat([inclusion(nets, path, self.temperature).flatten() for path in self._prices])
        return {"kept": float((likelihood >= LIKELY).float().mean()), "price_limit": float(self.price_limit)}

    def selectable(self, net: nn.Module) -> bool:
        return not step_gates(net)

    # -- measurements

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        return torch.stack([task.probabilities(particle, batch) for particle in each_particle(net)])

    # -- helpers

    def inclusions(self, net: nn.Module) -> list[dict[str, Tensor]]:
        """Layer -> probability of each of its groups, on the CPU: once for all particles, or once for each."""
        nets = nets_of(net)
        sharing = [[particle] for particle in nets] if self.init == "ensemble" else [nets]
        return [
            {name: inclusion(own, path, self.temperature).cpu() for name, path in self.groups.paths.items()}
            for own in sharing
        ]

    def _make_priors(self, vanilla: Sequence[nn.Module], run: Run) -> None:
        self._prior_names = [f"{name}.weight" for name in run.graph.layers]
        parts = [[net.get_parameter(name).flatten() for net in vanilla] for name in self._prior_names]
        self.priors = nn.ModuleList(QuantilePrior(torch.cat(part)) for part in parts)

    def _by_name(self) -> dict[str, QuantilePrior]:
        pairs = zip(self._prior_names, self.priors, strict=True)
        return {name: prior for name, prior in pairs if isinstance(prior, QuantilePrior)}

    def _started(self, vanilla: Sequence[nn.Module], run: Run) -> nn.Module:
        """The particles: nets with gates."""
        noisy = self.particles == "full" and self.init == "noise"
        return first_particles(
            vanilla,
            self.groups,
            stream(self.purpose, run.seed),
            rows=self.num_particles if self.particles == "gates" else 1,
            temperature=self.temperature,
            copies=self.num_particles if noisy else None,
            stds={name: self.init_std * prior.std for name, prior in self._by_name().items()},
            gate_std=self.gate_std,
        )


def price_share(clock: Clock) -> float:
    """How much of its price a gate has at this step: a line up to 1 over the first third of the phase."""
    return min(1.0, (clock.step + 1) / max(1.0, RAMP * clock.num_steps))
