"""Distribution-lossless pruning: particles of weights and gates move to a prior made from the trained net, by SVGD."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.budget.amounts import TargetShare
from prunebench.budget.by_inclusion import choose_by_inclusion
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.task import Batch
from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.measure import cost
from prunebench.methods.bases import gated_units as gated
from prunebench.methods.bases.first_particles import further_nets, particle_phase
from prunebench.methods.bases.gated_particles import GatedParticles
from prunebench.methods.bases.hardened_particles import mask_particles, narrow_particles
from prunebench.methods.bases.net_ensembles import best_net, cost_of_all, nets_of, reliability_after_cut
from prunebench.methods.bases.weight_masks import WeightMasks
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
ORIGIN = "DLLP re-implementation from the abstract; construction documented in prunebench/methods/dllp.py"
"""Marks every run: nothing but the abstract was known."""
PARTICLES = "particles"
Deploy = Annotated[str, Among(("ensemble", "single"))]


@validated
class Dllp(GatedParticles):
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
        particle_epochs, particle_lr: of the phase; the rate is constant.
        target_macs: share of the dense net's MACs that stays at most in one net: the groups with the highest inclusion
            probability for each MAC; null = the rule of one half.
        deploy: what is saved and measured as final: the "ensemble", or the "single" particle of lowest validation NLL.
        **common: the arguments of :class:`~prunebench.methods.bases.gated_particles.GatedParticles`.

    Raises:
        UserError: an option outside its values, or two that do not go together.
    """

    schedules = frozenset({"finetune"})
    purpose = "dllp particles"

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
        price: NonNegativeFloat = 10.0,
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
        super().__init__(
            num_particles=num_particles,
            particles=particles,
            init=init,
            init_std=init_std,
            gate_std=gate_std,
            gate_lr=gate_lr,
            price=price,
            cost_aware=cost_aware,
            prior_weight=prior_weight,
            spread_weight=spread_weight,
            temperature=temperature,
            gate_spread=gate_spread,
            mask=mask,
            layers=layers,
        )
        if mask == "weight" and (target_macs is not None or cost_aware):
            raise UserError(
                "method.mask=weight removes no MACs; set method.target_macs to null and method.cost_aware to false"
            )
        self.particle_epochs, self.particle_lr = particle_epochs, particle_lr
        self.target_macs, self.deploy = target_macs, deploy
        self.masks = nn.ModuleList()

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
        self.find_groups(run)
        names = list(self.groups.paths)
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
                self.others = further_nets(run, self.num_particles - 1)
            net = run.fit(net, particle_phase(phase, PARTICLES, epochs=self.particle_epochs, lr=self.particle_lr))
            net = run.fit(run.prune(net, phase), phase)
        return net

    # -- the cut

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        super().after_step(net, clock)
        if self.masks:
            for masks, particle in zip(self.masks, nets_of(net), strict=True):
                assert isinstance(masks, WeightMasks)
                masks.zero(particle)

    @torch.no_grad()
    def prune(self, net: nn.Module, run: Run) -> Extracted:
        self.hardened = True
        whole = [gated.without_gates(particle) for particle in nets_of(net)]
        likelihoods = self.inclusions(net)
        if self.mask == "weight":
            found, masks = mask_particles(whole, likelihoods)
            self.masks = nn.ModuleList(masks)
        else:
            found = narrow_particles(whole, likelihoods, run, target_macs=self.target_macs)
            found = replace(found, not_pruned=[*(found.not_pruned or ()), *self.groups.refused])
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

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        if not self.hardened:
            return {}

        def predict(several: nn.Module, batch: Batch) -> Tensor:
            return self.predict(several, batch, run.task)

        zeros = self.mask == "weight"
        return {**reliability_after_cut(net, predict, run, names=self._prior_names, zeros=zeros), "origin": ORIGIN}

    def cost(self, net: nn.Module, run: Run) -> Mapping[str, Any] | None:
        return cost_of_all(net, run)
