"""Adversarial neural pruning: masks that are trained under attack, and features that an attack must not move.

Madaan, Shin, Hwang: Adversarial Neural Pruning with Latent Vulnerability Suppression, ICML 2020 (arXiv 1908.04355);
official code divyam3897/ANP_VS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    FiniteFloat,
    FractionBelowOne,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import NET, Method, Minimise, match_layers
from prunebench.core.param_groups import apart, parted
from prunebench.core.task import Batch, Task, total
from prunebench.data.loaders import ImageData
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.beta_bernoulli import BetaBernoulliMask
from prunebench.measure import unit_costs
from prunebench.measure.attacks import Space, ThreatModel
from prunebench.measure.vulnerability import latent_of
from prunebench.methods.bases import adversarial_terms
from prunebench.methods.bases import unit_masks as masked
from prunebench.methods.bases.adversarial_terms import MODES, mask_terms, weight_terms
from prunebench.methods.bases.attacked_batches import Attacker, minimise_together
from prunebench.methods.bases.gaussian_nets import gaussian_layers, ordinary_layers, to_gaussian, to_plain
from prunebench.methods.bases.ordered_nets import MaskPosition

MASKS = "masks"
"""Name of the masks' optimiser."""
GAUSSIAN_SHARE = 100
"""The KL of Gaussian weights is divided by so many times the training pictures (run.py:38-63, kl_weight)."""


@validated
class ANP(Method):
    """Beta-Bernoulli masks and weights under PGD, each with a loss and an optimiser of its own.

    With x' the attacked pictures, N training pictures and V the mean distance of the features of x and x'

        masks:   CE(x') + kl_weight KL / N
        weights: (CE(x) + adversarial_weight CE(x')) / (1 + adversarial_weight) + kl_weight KL / N + suppression V

    Both gradients are taken at the same place and from the same draws, then both optimisers step. x and x' have draws
    (and batch-norm statistics) of their own; PGD looks at the net in evaluation mode. The l2 term of the paper is the
    phase's weight decay, which masks have not. In evaluation units are multiplied by their expected rate; the final net
    is without those whose rate is at or below ``threshold``, computes the same, and has the rates in its weights.

    Args:
        mode: ``standard`` (CE), ``bp`` (masks without attack: both losses are CE + KL / N), ``at`` (attack without
            masks), ``at_vs``, ``pretrained_at`` (``at`` after a pretraining), ``at_bnn`` (Gaussian weights,
            KL / 100 N, measured at the means), ``anp`` (no suppression), ``anp_vs``.
        eps, step, steps: of PGD in training, in pixels of [0, 1]; it begins at a random point.
        threat_model: ``paper``, or ``official``: clipping and eps act on normalised inputs, see
            :data:`~prunebench.measure.attacks.ThreatModel`.
        adversarial_weight, kl_weight, suppression: see above; the paper's beta and lambda.
        mask_lr: first rate of the masks' Adam; it falls as that of the weights does.
        mask_position: of convolutions' masks, see :data:`~prunebench.methods.bases.ordered_nets.MaskPosition`. A
            channel that ``pre_bn`` leaves a constant goes only where its readers can take it over exactly.
        raw_a: first value, or a table of layers (names and globs, the first that fits counts); null = the official
            ones. ``raw_b``: first value.
        prior: alpha0, the Beta prior's alpha / K. ``threshold``: of the expected rate. ``temperature``: of the draws.
        layers: names and globs of the layers that may have masks (at_bnn: Gaussian weights).
        prior_std, spread: at_bnn: deviation of the weights' prior, first value of theirs as softplus(spread).

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous"})
    sizes_given = False
    objective: ClassVar[str] = "regularised_heuristic"

    def __init__(
        self,
        *,
        mode: Annotated[str, Among(MODES)],
        eps: NonNegativeFloat,
        step: PositiveFloat,
        steps: PositiveInt,
        threat_model: ThreatModel,
        adversarial_weight: NonNegativeFloat,
        kl_weight: NonNegativeFloat,
        suppression: NonNegativeFloat,
        mask_lr: PositiveFloat,
        mask_position: MaskPosition,
        raw_a: FiniteFloat | Mapping[str, FiniteFloat] | None,
        raw_b: FiniteFloat,
        prior: PositiveFloat,
        threshold: FractionBelowOne,
        temperature: PositiveFloat,
        layers: Sequence[str],
        prior_std: PositiveFloat,
        spread: FiniteFloat,
    ) -> None:
        super().__init__()
        self.mode = MODES[mode]
        self.mode_name = mode
        self.reach: dict[str, Any] = {"eps": float(eps), "step": float(step), "steps": steps}
        self.threat_model = threat_model
        self.loss_weights = {"adversarial_weight": float(adversarial_weight), "suppression": float(suppression)}
        self.kl_weight = 1.0 if mode == "bp" else float(kl_weight)
        self.mask_lr, self.mask_position, self.raw_a = mask_lr, mask_position, raw_a
        self.mask_options = {"raw_b": raw_b, "temperature": temperature, "threshold": threshold}
        self.prior, self.layers, self.prior_std, self.spread = prior, layers, prior_std, spread
        self.places: dict[str, masked.MaskPlace] = {}
        self.whole: dict[str, str] = {}
        self.attacker: Attacker | None = None
        self.latent: tuple[str, ...] = ()
        self.num_train = 1
        self._active: dict[str, int] | None = None  # units that the extracted net still has, by layer

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if not isinstance(run.data, ImageData):
            raise UserError(f"method=anp attacks the pixels of pictures with labels, {run.data.name} has none")
        if self.mode.pretrained and not any(phase.pretrain for phase in run.phases):
            raise UserError(
                f"method.mode={self.mode_name} starts from a pretrained net; use schedule=simultaneous_pretrained"
            )
        self._look(run)
        if self.mode.masks:
            masked.check_masks(net, self.places, self.whole, self.raw_a, run)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self._look(run)
        if self.mode.gaussian and not gaussian_layers(net):
            names = match_layers(self.layers, ordinary_layers(net, run.graph), what="method.layers")
            return to_gaussian(net, names, scale="softplus", estimator="lrt", initial=self.spread)
        if self.mode.masks and not masked.unit_masks(net):
            return masked.add_unit_masks(net, self.places, self._mask)
        return net

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        random = [p for layer in gaussian_layers(net).values() for p in layer.parameters()]
        groups = apart(super().param_groups(net, phase), random, weight_decay=0.0)
        settings = {"optimizer": "adam", "lr": self.mask_lr, "weight_decay": 0.0}
        return apart(groups, masked.mask_parameters(net), **settings)

    def optimizers(self, net: nn.Module, phase: Phase) -> Mapping[str, list[dict[str, Any]]]:
        rest, own = parted(self.param_groups(net, phase), masked.mask_parameters(net))
        return {NET: rest, MASKS: own} if own else {NET: rest}

    # -- in training

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        return weight_terms(self._found(net, batch, task), **self.loss_weights)

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        found = self._found(net, batches[NET], task)
        terms = weight_terms(found, **self.loss_weights)
        masks = masked.mask_parameters(net)
        if not masks:
            minimise(terms)
            return terms
        held = {id(p) for p in masks}
        weights = [p for p in net.parameters() if p.requires_grad and id(p) not in held]
        losses = {NET: total(terms), MASKS: total(mask_terms(found))}
        minimise_together(minimise, losses, {NET: weights, MASKS: masks})
        return terms

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        found = {"kl_nats": float(self._divergence(net))} if self.mode.masks or self.mode.gaussian else {}
        if masks := masked.unit_masks(net):
            found["active_units"] = float(sum(mask.num_active() for mask in masks.values()))
        return found

    # -- afterwards

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        self._look(run)
        self._active = self._count(net)
        if gaussian_layers(net):
            return Extracted(net=to_plain(net), not_pruned=[])
        if not masked.unit_masks(net):
            return Extracted(net=net)
        run.measure("before_cut", net)
        found = masked.without_masked_units(net, self.places, self.whole, run)
        units = sum(place.units for place in self.places.values())
        facts = {"gated_units": units, "kept_units": sum(self._active.values())}
        return replace(found, achieved={**found.achieved, **facts})

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        """Size by the paper's formulas; nothing of a net that the method has not touched.

        See :func:`prunebench.measure.unit_costs.compared` (at_bnn: speedup 0.5 and memory 2 by definition).
        """
        active = self._count(net) if masked.unit_masks(net) else self._active
        if active is None:
            return {}
        if self.mode.gaussian:
            return {"speedup": 0.5, "memory_kept": 2.0, "unit_sparsity": 0.0}
        units = sum(place.units for place in self.places.values()) if active else 0
        return unit_costs.compared(run.graph, active, units)

    # -- helpers

    def _look(self, run: Run) -> None:
        """What follows from the run: places of masks, the space of the attack, the number of training pictures."""
        data = run.data
        self.num_train, self.latent = data.num_train, latent_of(run.template)
        if isinstance(data, ImageData):
            self.attacker = Attacker(**self.reach, space=Space.of(data.mean, data.std, self.threat_model))
        if self.mode.masks:
            chosen = match_layers(self.layers, run.graph.layers, what="method.layers")
            self.places, self.whole = masked.mask_places(run.graph, chosen, self.mask_position)

    def _mask(self, place: masked.MaskPlace) -> BetaBernoulliMask:
        return BetaBernoulliMask(place.units, raw_a=masked.first_raw_a(place, self.raw_a), **self.mask_options)

    def _found(self, net: nn.Module, batch: Batch, task: Task) -> dict[str, Tensor]:
        """What both losses are made of, as far as the mode has it."""
        found = adversarial_terms.passes(net, batch, task, self.mode, attacker=self.attacker, latent=self.latent)
        if self.mode.masks:
            found["kl"] = self.kl_weight * self._divergence(net) / self.num_train
        if self.mode.gaussian:
            found["kl"] = self._divergence(net) / (GAUSSIAN_SHARE * self.num_train)
        return found

    def _divergence(self, net: nn.Module) -> Tensor:
        terms = [mask.divergence(self.prior) for mask in masked.unit_masks(net).values()]
        terms += [kl.gaussian(g.weight, g.std(), self.prior_std).sum() for g in gaussian_layers(net).values()]
        return torch.stack(terms).sum()

    def _count(self, net: nn.Module) -> dict[str, int]:
        """Layer -> units of its mask that stay; empty without masks."""
        masks = masked.unit_masks(net)
        return {name: masks[place.path].num_active() for name, place in self.places.items()} if masks else {}
