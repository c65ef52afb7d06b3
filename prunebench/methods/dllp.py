"""Distribution-lossless pruning: particles of weights and gates move to a prior made from the trained net, by SVGD."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.budget.amounts import TargetShare
from prunebench.budget.by_inclusion import LIKELY, choose_by_inclusion, prices_by_macs
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.layers.quantile_prior import QuantilePrior
from prunebench.layers.step_gates import step_gates
from prunebench.measure import cost
from prunebench.methods.bases import gated_units as gated
from prunebench.methods.bases.first_particles import first_particles, further_nets, particle_phase
from prunebench.methods.bases.hardened_particles import mask_particles, narrow_particles
from prunebench.methods.bases.net_ensembles import best_net, cost_of_all, nets_of, reliability_after_cut
from prunebench.methods.bases.single_readers import UnitPlace, unit_places
from prunebench.methods.bases.stein_particles import (
    SteinSteps,
    accuracy,
    each_particle,
    inclusion,
    opened,
)
from prunebench.methods.bases.weight_masks import WeightMasks
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
ORIGIN = "DLLP re-implementation from the abstract; construction documented in prunebench/methods/dllp.py"
"""Marks every run: nothing but the abstract was known."""
PARTICLES = "particles"
RAMP = 1 / 3
"""Share of the particles' steps in which the price of a gate rises to its full value."""
LARGEST_DROP = 0.05
"""Of the validation accuracy under that of the dense net; a larger one stops the price's rise."""
REOPENED = 1e-3
"""Score of the last gate of a layer: just open."""
Deploy = Annotated[str, Among(("ensemble", "single"))]


@validated
class Dllp(Method):
    """Wang et al. 2022 (arXiv 2212.03537): a re-implementation from the abstract, all of the paper that could be read.

    From the abstract: pruning by values near zero takes useful and superfluous weights for one distribution; instead
    the vanilla network is remodelled as discrete priors of the latent pruned model and of the redundancy, Stein
    variational inference approaches the latent prior without a KL divergence to an unknown distribution, and the
    pruned model has a quantified reliability. SVGD is Liu and Wang's (2016). **Everything else is a choice made here**:

    1. The net is trained as usual. Its weights give each layer two priors (see
       :class:`prunebench.layers.quantile_prior.QuantilePrior`): a mixture around 64 quantiles for weights of use,
       without any pull to 0, and a normal of the same two moments for redundant ones. Biases and norms: flat.
    2. The phase ``particles``: K copies with noise, a gate of 0 or 1 for each group of weights behind its activation
       (gradient of sigmoid(s / tau)), whose prior has ``price`` nats for an open gate and N(0, spread^2). Weights and
       gates move by SVGD on ln p(labels) + beta ln p(weights | gates) + ln p(gates), with Adam on -phi / N; the prior
       of the weights has no say in the gates' gradient. The price rises linearly in the first third and stops rising
       when validation accuracy is 5 points below the dense net's; a layer keeps one gate open.
    3. Groups with a mean of sigmoid(s / tau) over the particles of at least one half stay in all of them, the others
       are removed, batch norms see training samples again, and the particles are trained on by SVGD of their weights.
    4. The result is K narrow nets that predict together, saved as one ensemble **whose cost is counted as K nets**;
       the particle with the lowest validation NLL is an operating point of its own.

    Biases and norms follow each particle's own gradient: without a prior and without noise a kernel would keep them
    equal forever. The optimiser starts anew after the cut. A run says in its ``budget.origin`` what it is.

    Args:
        num_particles: K; 1 = maximum a posteriori.
        particles: what there are K of: "full" = weights and gates, "gates" = gates of one shared set of weights, which
            follows their mean gradient and is one net after the cut.
        init: "noise" = K noisy copies of one net; "ensemble" = K nets, trained from different random weights: a
            particle then keeps a mask of its own, and after the cut moves by itself.
        init_std: noise of the weights, in standard deviations of their layer.
        gate_std: noise of the scores s, which start at 1.
        particle_epochs, particle_lr: of the phase; the rate is constant.
        gate_lr: of the scores.
        price: a, in nats for each open gate, 0 or more.
        cost_aware: a gate's price is a x its MACs / their mean.
        prior_weight: beta, of the weights' log prior.
        spread_weight: T, of the repulsion of weights; 1 = the variance of a Gaussian target, 0.01 = a cold posterior.
        temperature: tau; ``gate_spread``: of the scores' prior.
        mask: "filter" = a group is a filter or hidden unit that one layer alone reads; "weight" = a single weight.
        target_macs: share of the dense net's MACs that stays at most in one net: the groups with the highest inclusion
            probability for each MAC; null = the rule of one half.
        deploy: what is saved and measured as final: the "ensemble", or the "single" particle of lowest validation NLL.
        layers: names and globs of layers with gates.

    Raises:
        UserError: an option outside its values, or two that do not go together.
    """

    schedules = frozenset({"finetune"})
    objective = "svgd"
    sizes_given = False
    price_limit: Tensor

    def __init__(
        self,
        *,
        num_particles: PositiveInt = 4,
        particles: Annotated[str, Among(("full", "gates"))] = "full",
        init: Annotated[str, Among(("noise", "ensemble"))] = "noise",
        init_std: NonNegativeFloat = 0.3,
        gate_std: NonNegativeFloat = 0.1,
        particle_epochs: PositiveInt = 60,
        particle_lr: NonNegativeFloat = 1e-3,
        gate_lr: NonNegativeFloat = 2e-2,
        price: NonNegativeFloat = 20.0,
        cost_aware: bool = False,
        prior_weight: NonNegativeFloat = 0.1,
        spread_weight: NonNegativeFloat = 0.01,
        temperature: PositiveFloat = 0.5,
        gate_spread: PositiveFloat = 3.0,
        mask: Annotated[str, Among(("filter", "weight"))] = "filter",
        target_macs: TargetShare | None = None,
        deploy: Deploy = "ensemble",
        layers: Sequence[str] = ("*",),
    ) -> None:
        super().__init__()
        if init == "ensemble" and particles == "gates":
            raise UserError("method.particles=gates shares one set of weights; use method.init=noise with it")
        if mask == "weight" and (target_macs is not None or cost_aware):
            raise UserError(
                "method.mask=weight removes no MACs; set method.target_macs to null and method.cost_aware to false"
            )
        self.num_particles, self.particles, self.init = num_particles, particles, init
        self.init_std, self.gate_std = init_std, gate_std
        self.particle_epochs, self.particle_lr, self.gate_lr = particle_epochs, particle_lr, gate_lr
        self.price, self.cost_aware, self.mask, self.target_macs = price, cost_aware, mask, target_macs
        self.prior_weight, self.spread_weight = prior_weight, spread_weight
        self.temperature, self.gate_spread = temperature, gate_spread
        self.deploy, self.layers = deploy, layers
        self.priors, self.masks = nn.ModuleList(), nn.ModuleList()
        self.register_buffer("price_limit", torch.ones(()))  # share of the price that is not passed any more
        self._prior_names: list[str] = []  # of the weight tensors, in the order of ``priors``
        self._places: dict[str, UnitPlace] = {}  # of the layers whose filters have gates
        self._paths: dict[str, str] = {}  # layer -> path of the module with the gates of its groups
        self._prices: dict[str, float] = {}  # path of the layer with gates -> nats
        self._others: list[nn.Module] = []  # further vanilla nets of init=ensemble
        self._steps: SteinSteps | None = None
        self._cut = False
        self._dense_accuracy: float | None = None
        self._validation: Callable[[], Batches] | None = None

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if run.data.task != "classification":
            raise UserError(f"this method averages class probabilities; {run.data.name} is for {run.data.task}")
        if self.deploy == "single" and not run.data.num_val:
            raise UserError(
                "method.deploy=single chooses a particle on the validation split, and there is none; set "
                "dataset.validation to a number of samples, or method.deploy=ensemble"
            )
        if self.init == "ensemble" and not any(phase.pretrain for phase in run.phases):
            raise UserError(
                "method.init=ensemble trains several whole nets, and the schedule has no phase that pretrains"
            )
        names = self._gated_layers(run)
        if self.mask == "filter":
            draws = torch.Generator().manual_seed(0)
            made_up = {name: torch.rand(run.graph.layers[name].out_channels, generator=draws) for name in names}
            run.rehearse(net, choose_by_inclusion(made_up, run.graph, target_macs=self.target_macs))
        log.info("%s", ORIGIN)
        log.info("layers with gates: %s", ", ".join(names))

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.pretrain:
                net = run.fit(net, phase)
                continue
            run.measure_dense(net)
            run.teacher()  # there must be a trained net, whose weights are the prior
            if self.init == "ensemble":
                self._others = further_nets(run, self.num_particles - 1)
            net = run.fit(net, particle_phase(phase, PARTICLES, epochs=self.particle_epochs, lr=self.particle_lr))
            net = run.fit(run.prune(net, phase), phase)
        return net

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
        if self._cut or isinstance(net, NetEnsemble) or step_gates(net):
            return net
        vanilla = [net, *self._others]
        self._make_priors(vanilla, run)
        names = self._gated_layers(run)
        self._set_prices(names, run)
        self._validation = run.data.validation
        found = run.once("dense_validation", lambda: run.validate(net) if run.data.num_val else {})
        self._dense_accuracy = found.get("accuracy")
        return self._started(vanilla, names, run)

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
        if self._cut and self.init == "ensemble":
            for alone in nets:  # of different shapes
                self._steps.turn_weights([alone], priors, {}, scale=len(nets))
        else:
            self._steps.turn_weights(nets, priors, opened(nets, self._paths), scale=len(nets))
        share = min(price_share(clock), float(self.price_limit))
        if step_gates(net):
            self._steps.turn_gates(nets, {path: share * price for path, price in self._prices.items()})

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for gate in step_gates(net).values():
            gated.open_one(gate.score.data, at=REOPENED)
        self._zero(net)

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

    # -- the cut

    @torch.no_grad()
    def prune(self, net: nn.Module, run: Run) -> Extracted:
        self._cut = True
        nets = nets_of(net)
        whole = [gated.without_gates(particle) for particle in nets]
        names = self._gated_layers(run)
        groups = [[particle] for particle in nets] if self.init == "ensemble" else [nets]
        likelihoods = [
            {name: inclusion(own, self._paths[name], self.temperature).cpu() for name in names} for own in groups
        ]
        if self.mask == "weight":
            found, masks = mask_particles(whole, likelihoods)
            self.masks = nn.ModuleList(masks)
        else:
            found = narrow_particles(whole, likelihoods, run, target_macs=self.target_macs)
            found = replace(found, not_pruned=[*(found.not_pruned or ()), *self._refused(run)])
        log.info("%s", ORIGIN)
        facts = {"origin": ORIGIN, "num_particles": self.num_particles, "price_limit": float(self.price_limit)}
        return replace(found, achieved={**found.achieved, **facts})

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if not isinstance(net, NetEnsemble):
            return Extracted(net=net)
        if self.deploy == "single":
            best = best_net(net, run)
            plan = None if net.plans is None else Plan.from_json(net.plans[best])
            return Extracted(net=net.members[best], plan=plan, achieved={"particle": best})
        one, number = cost.count(net.members[0], run.example), len(net.members)
        log.info("the ensemble is counted as %d nets; the first of them has %s MACs", number, f"{one.macs:,}")
        return Extracted(net=net)

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        if not isinstance(net, NetEnsemble):
            return
        if self.deploy == "single":
            yield Point(name="ensemble", net=net, settings={"num_nets": len(net.members)})
        elif run.data.num_val:
            best = best_net(net, run)
            yield Point(name="single_net", net=net.members[best], settings={"num_nets": 1, "particle": best})

    # -- measurements

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        return torch.stack([task.probabilities(particle, batch) for particle in each_particle(net)])

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        if not self._cut:
            return {}

        def predict(several: nn.Module, batch: Batch) -> Tensor:
            return self.predict(several, batch, run.task)

        zeros = self.mask == "weight"
        return {**reliability_after_cut(net, predict, run, names=self._prior_names, zeros=zeros), "origin": ORIGIN}

    def cost(self, net: nn.Module, run: Run) -> Mapping[str, Any] | None:
        return cost_of_all(net, run)

    # -- helpers

    def _gated_layers(self, run: Run) -> list[str]:
        """Names of the layers whose groups have gates; for filters their places are kept."""
        if self.mask == "weight":
            known = [n for n, layer in run.graph.layers.items() if layer.kind not in ("depthwise", "transposed")]
            names = match_layers(self.layers, known, what="method.layers")
            self._paths = {name: name for name in names}
            return names
        places, _ = unit_places(run.graph)
        places = {name: place for name, place in places.items() if run.graph.layers[name].kind != "transposed"}
        if not places:
            raise UserError("this net has no layer whose channels one other layer alone reads; use method.mask=weight")
        names = match_layers(self.layers, places, what="method.layers")
        self._places = {name: places[name] for name in names}
        self._paths = {name: place.reader for name, place in self._places.items()}
        return names

    def _refused(self, run: Run) -> list[dict[str, str]]:
        places, refused = unit_places(run.graph)
        left_out = [name for name in places if name not in self._places]
        return refused + [{"layer": name, "reason": "method.layers leaves it out"} for name in left_out]

    def _set_prices(self, names: Sequence[str], run: Run) -> None:
        prices = dict.fromkeys(names, self.price)
        if self.cost_aware:
            prices = prices_by_macs(run.graph, names, self.price)
        self._prices = {self._paths[name]: price for name, price in prices.items()}

    def _make_priors(self, vanilla: Sequence[nn.Module], run: Run) -> None:
        self._prior_names = [f"{name}.weight" for name in run.graph.layers]
        parts = [[net.get_parameter(name).flatten() for net in vanilla] for name in self._prior_names]
        self.priors = nn.ModuleList(QuantilePrior(torch.cat(part)) for part in parts)

    def _by_name(self) -> dict[str, QuantilePrior]:
        pairs = zip(self._prior_names, self.priors, strict=True)
        return {name: prior for name, prior in pairs if isinstance(prior, QuantilePrior)}

    def _started(self, vanilla: Sequence[nn.Module], names: Sequence[str], run: Run) -> nn.Module:
        """The particles: nets with gates."""
        noisy = self.particles == "full" and self.init == "noise"
        return first_particles(
            vanilla,
            names,
            None if self.mask == "weight" else self._places,
            stream("dllp particles", run.seed),
            rows=self.num_particles if self.particles == "gates" else 1,
            temperature=self.temperature,
            copies=self.num_particles if noisy else None,
            stds={name: self.init_std * prior.std for name, prior in self._by_name().items()},
            gate_std=self.gate_std,
        )

    def _masks(self) -> list[WeightMasks]:
        return [masks for masks in self.masks if isinstance(masks, WeightMasks)]

    def _zero(self, net: nn.Module) -> None:
        if self.masks:
            for masks, particle in zip(self._masks(), nets_of(net), strict=True):
                masks.zero(particle)


def price_share(clock: Clock) -> float:
    """How much of its price a gate has at this step: a line up to 1 over the first third of the phase."""
    return min(1.0, (clock.step + 1) / max(1.0, RAMP * clock.num_steps))
