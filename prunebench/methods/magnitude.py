"""Remove single weights by magnitude: the shapes stay, the layers become sparse."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.budget.counts import PruneRatio, step_ratio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import ALL_SCHEDULES, Method, match_layers
from prunebench.criteria.lamp import lamp_thresholds
from prunebench.errors import UserError
from prunebench.layers.own_weight import has_own_weight
from prunebench.methods.bases.weight_masks import WeightMasks
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
KINDS = {"conv": ("conv", "depthwise", "grouped", "transposed"), "linear": ("linear",)}
KINDS["all"] = (*KINDS["conv"], *KINDS["linear"])


@validated
class Magnitude(Method):
    """Zero the weights of smallest absolute value at the cut and keep them zero afterwards.

    ``variant: global`` is Rethinking's version of Han et al. (2015): one threshold through all layers of ``kinds`` (its
    convolutions), a weight stays iff it is strictly above (cifar/weight-level/cifar_prune.py:184-211); in the iterative
    schedule each round takes an equal share of what is left
    (cifar/lottery-ticket/weight-level/cifar_prune_iterative.py:186-215).
    ``variant: layer_std`` is the original one: per layer, ``quality`` standard deviations of its live weights. Its
    smaller dropout after pruning is not done here: it is a setting of the net.
    ``variant: lamp`` (Lee et al. 2021) is one threshold on w^2 over the sum of the squares in its tensor that are at
    least as large; it empties no layer.

    Training keeps the pattern: the gradients of dead weights are zeroed before each step, and the weights after it,
    since momentum and weight decay may move what a mask on gradients alone leaves. Scratch schedules draw the live
    weights anew from N(0, sqrt(2 / n)), n = live weights / input channels (cifar/weight-level/cifar_E.py:204-211).

    The counts are honest: a sparse layer costs as many MACs as before; only ``nonzero_params`` falls. Scratch-B
    is stretched by the MACs of live weights, which is the paper's rule (its code computes the ratio too early).

    Args:
        prune_ratio: share of the weights of all chosen layers that goes, in [0, 1); for ``global`` and ``lamp``.
        variant: "global", "layer_std" or "lamp".
        quality: threshold in standard deviations, for ``layer_std``.
        kinds: "conv" (Rethinking), "linear" (a language model's matrices) or "all".
        layers: names and globs of layers of that kind.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = ALL_SCHEDULES - {"simultaneous"}

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio,
        variant: Annotated[str, Among(("global", "layer_std", "lamp"))] = "global",
        quality: NonNegativeFloat = 1.0,
        kinds: Annotated[str, Among(KINDS)] = "conv",
        layers: Sequence[str] = ("*",),
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self.prune_ratio = float(prune_ratio)
        self.variant = variant
        self.quality = quality
        self.layers = layers
        self.masks = WeightMasks()

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        self._choose_layers(run)
        log.info("layers to prune: %s", ", ".join(self.masks.names))

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.active or not phase.pretrain:
                run.measure_dense(net)
            if phase.prune:
                net = run.prune(net, phase)
            if phase.equal_compute:
                phase = phase.stretched(run.dense.cost.macs, self.sparse_macs(net, run))
            net = run.fit(net, phase)
        return net

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        self._choose_layers(run)
        assert run.phase is not None
        net = copy.deepcopy(net)
        weights = self.masks.weights(net)
        thresholds = run.once(f"thresholds-{run.phase.name}", lambda: self._thresholds(weights, run.fraction))
        self.masks.load([weight.abs() > limit for weight, limit in zip(weights, thresholds, strict=True)])
        self.masks.zero(net)
        return self._described(net, run)

    def fresh(self, net: nn.Module, run: Run) -> nn.Module:
        net = super().fresh(net, run)
        with torch.no_grad():
            for weight, mask in self.masks.pairs(net):
                weight.normal_(0.0, criteria.redraw_std(mask))
        self.masks.zero(net)
        return net

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero_gradients(net)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero(net)

    def sparse_macs(self, net: nn.Module, run: Run) -> int:
        """Multiply-accumulates of one sample if dead weights cost nothing (Rethinking, count_flops.py)."""
        dense = {row["layer"]: row["macs"] for row in run.dense.cost.per_layer}
        saved = 0
        for name, (weight, mask) in zip(self.masks.names, self.masks.pairs(net), strict=True):
            # each weight is used once at every position of the output
            saved += int((~mask).sum()) * dense[name] // weight.numel()
        return run.dense.cost.macs - saved

    def _choose_layers(self, run: Run) -> None:
        rows = run.dense.cost.per_layer
        own = {name for name, module in run.dense.template.named_modules() if has_own_weight(module)}
        names = [row["layer"] for row in rows if row["kind"] in KINDS[self.kinds] and row["layer"] in own]
        if not names:
            other = "linear" if self.kinds == "conv" else "all"
            raise UserError(
                f"method.kinds={self.kinds}: this net has no such layer; use method.kinds={other}"
                if self.kinds != "all"
                else "method.kinds=all: this net has neither convolutions nor linear layers"
            )
        self.masks.names = match_layers(self.layers, names, what="method.layers")

    def _thresholds(self, weights: Sequence[Tensor], fraction: float) -> list[float]:
        """One threshold for each layer; ``fraction`` of the schedule's rounds is done after this cut."""
        if self.variant == "layer_std":
            return [float(criteria.layer_std_threshold(weight, self.quality)) for weight in weights]
        total = sum(weight.numel() for weight in weights)
        num_live = sum(int(torch.count_nonzero(weight)) for weight in weights)
        target = (1.0 - step_ratio(self.prune_ratio, fraction)) * total
        share = max(0.0, 1.0 - target / num_live) if num_live < total else step_ratio(self.prune_ratio, fraction)
        if self.variant == "lamp":
            return [float(limit) for limit in lamp_thresholds(weights, share)]
        return [float(criteria.remaining_threshold(weights, share))] * len(weights)

    def _described(self, net: nn.Module, run: Run) -> Extracted:
        """``net`` after the cut, with what is left of its layers.

        Raises:
            UserError: a layer that nothing bypasses has lost all of its weights.
        """
        kept = self.masks.shares(net)
        for name in (name for name, share in kept.items() if share == 0.0):
            try:
                run.graph.check(Plan(keep={name: ()}))
            except UserError:
                raise UserError(
                    f"all weights of {name} fall below the threshold and nothing bypasses the layer; "
                    "lower method.prune_ratio (or method.quality), or leave it out of method.layers"
                ) from None
        assert self.masks.live is not None
        log.info("kept weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in kept.items()))
        reason = "all its weights are above the threshold"
        return Extracted(
            net=net,
            not_pruned=[{"layer": name, "reason": reason} for name, share in kept.items() if share == 1.0],
            achieved={"weights_kept": float(self.masks.live.float().mean())},
        )
