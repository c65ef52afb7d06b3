"""Variational nested dropout: one net that can be cut at any width, with learned chances of the widths.

Cui, Liu, Li, Mao, Chan, Xue: Bayesian nested neural networks for uncertainty calibration and adaptive compression,
CVPR 2021, and variational nested dropout, TPAMI 2023 (arXiv 2101.11353); official code
ralphc1212/variational_nested_dropout.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.config.arguments import validated
from prunebench.config.ranges import (
    Among,
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    Range,
)
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.layers.ordered_mask import Blocks, GumbelInput, OrderedMask
from prunebench.measure import logit_average
from prunebench.methods.bases import ordered_nets as ordered
from prunebench.methods.bases.fresh_norms import check_bn_images
from prunebench.methods.bases.gaussian_nets import to_gaussian, to_plain
from prunebench.methods.bases.nested_cuts import cut_out, trained_apart
from prunebench.methods.bases.nested_widths import NestedWidths, Width
from prunebench.methods.bases.ordered_divergences import mask_divergence, weight_divergence
from prunebench.methods.bases.ordered_nets import MaskPosition
from prunebench.methods.bases.recorded_draws import KeptDraws, Recorded
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")

DEAD = 3.0
"""Weights with log alpha at or above it are 0 in a net without noise (``get_clip_mask`` of the official code)."""
LEARNED, PRIOR, NONE = "learned", "prior", "none"


@validated
class VND(KeptDraws):
    """Train under ordered masks and multiplicative Gaussian weight noise, then cut at ``width`` and at ``num_widths``.

    In each pass every masked convolution keeps the first blocks of its channels; how many is drawn from q(c), the chain
    of :mod:`prunebench.layers.ordered_mask`. Weights are N(w, alpha w^2) with an alpha of their own, drawn by local
    reparameterisation. Minimised is

        CE + kl_weight * sum over layers of [KL(q(c) || p(c)) + sum over channels of P(channel stays) KL_w(channel)]

    where KL_w is the MEAN over the weights of a channel. Linear layers have noise and no mask; ``plain`` layers have
    neither. At a width rho all layers keep the frozen blocks and floor(rho K) of the K others; the first convolution
    and the linear layers keep all outputs. Each cut gets its own batch-norm statistics, from one pass over the training
    pictures with noise. Predictions are the mean of S nets whose weights are drawn once, the same for all pictures (the
    official code draws each output).

    In training the unmasked net is validated with each channel at the chance that it stays; a best epoch is measured
    like the final net, at ``width``. Baselines: ``masks=prior`` and ``weight_noise=false`` is nested dropout; with
    ``masks=none`` every width is a small net of its own, trained through the whole phase from new random weights.

    With ``mask_position=post_act`` the cut net computes what the masked one does. With ``pre_bn`` a masked channel of
    the trained net is the constant that its norm makes of 0; the cut leaves it out, and the fresh statistics of the
    norms behind take up the difference, but for that at the borders of a padded picture.

    Args:
        width: rho of the run's net, in [0, 1], or a table name or glob of masked layers -> rho (others keep all).
        num_widths: n operating points rho = 1 - i / (n - 1); those that cut no further are left out. 0 = none.
        masks: "learned", "prior" (q = p, nothing learned) or "none".
        weight_noise: whether weights are Gaussian.
        num_blocks: blocks of a layer; where they do not divide its channels the greatest common divisor is taken.
        frozen_blocks: of so many blocks these always stay; a layer with fewer blocks keeps this share, rounded up.
        mask_position: "post_act" or "pre_bn", see :data:`~prunebench.methods.bases.ordered_nets.MaskPosition`.
        gumbel_input: "log_q", or "q" as in the official code (torch_vnd.py:77-78): nearly uniform widths.
        temperature: of the Gumbel-softmax's gradient.
        prior_keep: pi of the prior chain. ``keep_logit``: beta starts at its sigmoid.
        log_alpha: where ln alpha starts.
        scale_kept: multiply channels of a cut net by the chance that they stay, in front of the norm (official).
        clamp_noise: ln alpha of a cut net within [-8, 0], as in the official evaluation.
        bn_images: training pictures, augmented, for the batch norms of each cut; null = all.
        plain: names and globs of layers without mask and noise; null = the first convolution.
        **common: ``layers``, ``kl_weight`` and ``num_samples`` (null = one pass without noise, weights of ln alpha >= 3
            at 0) of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    objective: ClassVar[str] = "regularised_heuristic"

    def __init__(
        self,
        *,
        width: Fraction | Mapping[str, Fraction],
        num_widths: NonNegativeInt,
        masks: Annotated[str, Among((LEARNED, PRIOR, NONE))],
        weight_noise: bool,
        num_blocks: Annotated[int, Range(low=2)],
        frozen_blocks: PositiveInt,
        mask_position: MaskPosition,
        gumbel_input: GumbelInput,
        temperature: PositiveFloat,
        prior_keep: OpenFraction,
        keep_logit: FiniteFloat,
        log_alpha: FiniteFloat,
        scale_kept: bool,
        clamp_noise: bool,
        bn_images: PositiveInt | None,
        plain: Sequence[str] | None,
        layers: Sequence[str],
        kl_weight: NonNegativeFloat,
        num_samples: PositiveInt | None,
    ) -> None:
        super().__init__(layers=layers, kl_weight=kl_weight, kl_start=0, kl_warmup=0, num_samples=num_samples)
        if frozen_blocks >= num_blocks:
            raise UserError(f"method.frozen_blocks={frozen_blocks} must be below method.num_blocks={num_blocks}")
        self.width, self.num_widths = width, num_widths
        self.masks, self.weight_noise = masks, weight_noise
        self.blocks = {"num_blocks": num_blocks, "frozen_blocks": frozen_blocks}
        self.mask_position, self.plain = mask_position, plain
        self.prior_keep, self.log_alpha = prior_keep, log_alpha
        self.mask_options: dict[str, Any] = {
            "logit": keep_logit if masks == LEARNED else math.log(prior_keep / (1 - prior_keep)),
            "learned": masks == LEARNED,
            "temperature": temperature,
            "gumbel_input": gumbel_input,
        }
        self.cut_options: dict[str, Any] = {"scale": scale_kept, "clamp": clamp_noise, "bn_images": bn_images}
        self.masked: dict[str, Blocks] = {}  # layer -> its blocks
        self.nested = NestedWidths(self.masked)
        self.places: dict[str, str] = {}  # path of what its mask stands behind -> layer
        self.whole: list[dict[str, str]] = []
        self._curve: list[Point] = []

    # -- in training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        check_bn_images(self.cut_options["bn_images"], run)
        if not self.masked:
            reasons = "".join(f", for example {entry['layer']}: {entry['reason']}" for entry in self.whole[:1])
            raise UserError(f"no convolution of this net can be masked{reasons}; choose others by method.layers")
        if self.weight_noise and not self.names:
            raise UserError("method.plain takes all layers, and none is left for the noise; name fewer")
        self.plan(self.width)
        run.rehearse(net, Choice(self.plan(0.0), self.whole, {}))
        several = {blocks.num for blocks in self.masked.values()}
        log.info("masked: %s; blocks a layer: %s", ", ".join(self.masked), ", ".join(map(str, sorted(several))))

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        """As every method; with ``masks=none`` one net after the other, that of ``width`` last."""
        if self.masks != NONE:
            return super().run(net, run)
        found, self._curve = trained_apart(net, run, self.nested, self.width, num_widths=self.num_widths)
        return found

    def swap(self, net: nn.Module) -> nn.Module:
        if self.weight_noise:
            threshold = DEAD if self.num_samples is None else None
            options = {"scale": "log_alpha", "estimator": "lrt", "initial": self.log_alpha, "threshold": threshold}
            net = to_gaussian(net, self.names, **options)
        if self.masks == NONE:
            return net
        masks = {path: OrderedMask(self.masked[name], **self.mask_options) for path, name in self.places.items()}
        return ordered.add_masks(net, masks)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        found = {name: self.kl_now * term for name, term in self.divergences(net).items()}
        return {**task.losses(net, batch), **found}

    def divergences(self, net: nn.Module) -> dict[str, Tensor]:
        """Those of the masks and of the weights, sums over the layers, where they are learned; nats."""
        found = {}
        if self.masks == LEARNED:
            found["kl_masks"] = mask_divergence(net, prior_keep=self.prior_keep)
        if self.weight_noise:
            found["kl_weights"] = weight_divergence(net, self.names, self.places)
        return found

    def divergence(self, net: nn.Module) -> Tensor:
        return torch.stack([*self.divergences(net).values(), torch.zeros(())]).sum()

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        numbers = {f"{name}_nats": float(term) for name, term in self.divergences(net).items()}
        if ordered.masks_of(net):
            numbers["expected_width"] = ordered.expected_width(net)
        return numbers

    # -- afterwards

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if self.masks == NONE:
            quiet = self.weight_noise and self.num_samples is None
            found = Extracted(net=to_plain(net) if quiet else net, plan=self.plan(self.width), not_pruned=self.whole)
        else:
            if self.plan(self.width).keep:
                run.measure("before_cut", self._cut(net, run, 1.0).net)
            found = self._cut(net, run, self.width, compared=True)
        return replace(found, achieved={**found.achieved, **self.nested.facts(self.width, run.graph)})

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        if self.masks == NONE:
            yield from self._curve
            return
        for width in self.nested.points(self.num_widths):
            yield self.nested.point(width, self._cut(net, run, width).net, run.graph)

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if ordered.masks_of(net):  # the best epoch
            net = self._cut(net, run, self.width).net
        return super().before_measure(net, run)

    @torch.no_grad()
    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        return logit_average.summarise(*net.recorded()) if isinstance(net, Recorded) else {}

    # -- helpers

    def plan(self, width: Width) -> Plan:
        """What stays at a width; nothing is named that stays whole."""
        return self.nested.plan(width)

    def _cut(self, net: nn.Module, run: Run, width: Width, *, compared: bool = False) -> Extracted:
        """The trained net, cut at a width, with batch norms that fit; ``compared`` with the zeroed net."""
        options = {**self.cut_options, "noise": self.num_samples is not None, "compared": compared}
        return cut_out(net, run, self.plan(width), masked=self.places, whole=self.whole, **options)

    def _choose(self, net: nn.Module, run: Run) -> None:
        graph = run.graph
        super()._choose(run.template, run)  # not ``net``: where masks stand, paths are others
        apart = ordered.left_plain(graph, self.plain)
        self.names = [name for name in self.names if name not in apart]
        self.masked, refused = ordered.maskable(graph, self.names, position=self.mask_position, **self.blocks)
        self.nested = NestedWidths(self.masked)
        self.places = {ordered.holder(graph, name, self.mask_position): name for name in self.masked}
        refused |= dict.fromkeys(apart, "it has neither mask nor noise (method.plain)")
        self.whole = [{"layer": name, "reason": reason} for name, reason in refused.items()]
