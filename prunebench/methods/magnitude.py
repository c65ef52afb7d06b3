"""Remove single weights by magnitude: the shapes stay, the layers become sparse."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.budget.counts import PruneRatio, step_ratio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat
from prunebench.core.method import ALL_SCHEDULES, Method, match_layers
from prunebench.errors import UserError
from prunebench.surgery.plan import Plan

if TYPE_CHECKING:
    from prunebench.run.job import Job

log = logging.getLogger("prunebench")
KINDS = {"conv": ("conv", "depthwise", "grouped"), "linear": ("linear",)}
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

    Training keeps the pattern: the gradients of dead weights are zeroed before each step, and the weights after it,
    since momentum and weight decay may move what a mask on gradients alone leaves. Scratch schedules draw the live
    weights anew from N(0, sqrt(2 / n)), n = live weights / input channels (cifar/weight-level/cifar_E.py:204-211).

    The counts are honest: a sparse layer costs as many MACs as before; only ``nonzero_params`` falls. Scratch-B
    is stretched by the MACs of live weights, which is the paper's rule (its code computes the ratio too early).

    Args:
        prune_ratio: share of the weights of all chosen layers that goes, in [0, 1); for ``global``.
        variant: "global" or "layer_std".
        quality: threshold in standard deviations, for ``layer_std``.
        kinds: "conv" (Rethinking), "linear" (a language model's matrices) or "all".
        layers: names and globs of layers of that kind.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = ALL_SCHEDULES - {"simultaneous"}
    live: Tensor | None

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio,
        variant: Annotated[str, Among(("global", "layer_std"))] = "global",
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
        self.names: list[str] = []
        # bool, the weights of all chosen layers in one row, True where one lives
        self.register_buffer("live", None)

    def check(self, net: nn.Module, job: Job) -> None:
        super().check(net, job)
        self._choose_layers(job)
        log.info("layers to prune: %s", ", ".join(self.names))

    def run(self, net: nn.Module, job: Job) -> nn.Module:
        for phase in job.phases:
            if phase.active or not phase.pretrain:
                job.measure_dense(net, self)
            if phase.prune:
                net = job.prune(net, phase, self)
            if phase.equal_compute:
                phase = phase.stretched(job.dense_cost.macs, self.sparse_macs(net, job))
            net = job.fit(net, phase, self)
        return net

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        self._choose_layers(job)
        assert job.phase is not None
        net = copy.deepcopy(net)
        weights = [weight for weight, _ in self._weights(net)]
        thresholds = job.once(f"thresholds-{job.phase.name}", lambda: self._thresholds(weights, job.fraction))
        self.live = torch.cat(
            [(weight.abs() > limit).flatten() for weight, limit in zip(weights, thresholds, strict=True)]
        )
        self._zero(net)
        self._report(net, job)
        return net

    def fresh(self, net: nn.Module, job: Job) -> nn.Module:
        net = super().fresh(net, job)
        with torch.no_grad():
            for weight, mask in self._weights(net):
                weight.normal_(0.0, criteria.redraw_std(mask))
        self._zero(net)
        return net

    def before_step(self, net: nn.Module) -> None:
        for weight, mask in self._weights(net):
            if weight.grad is not None:
                weight.grad *= mask

    def after_step(self, net: nn.Module) -> None:
        self._zero(net)

    def sparse_macs(self, net: nn.Module, job: Job) -> int:
        """Multiply-accumulates of one sample if dead weights cost nothing (Rethinking, count_flops.py)."""
        dense = {row["layer"]: row["macs"] for row in job.dense_cost.per_layer}
        saved = 0
        for name, (weight, mask) in zip(self.names, self._weights(net), strict=True):
            # each weight is used once at every position of the output
            saved += int((~mask).sum()) * dense[name] // weight.numel()
        return job.dense_cost.macs - saved

    def _choose_layers(self, job: Job) -> None:
        rows = job.dense_cost.per_layer
        names = [row["layer"] for row in rows if row["kind"] in KINDS[self.kinds] and row["params"]]
        if not names:
            other = "linear" if self.kinds == "conv" else "all"
            raise UserError(
                f"method.kinds={self.kinds}: this net has no such layer; use method.kinds={other}"
                if self.kinds != "all"
                else "method.kinds=all: this net has neither convolutions nor linear layers"
            )
        self.names = match_layers(self.layers, names, what="method.layers")

    def _weights(self, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The weight of each chosen layer with its mask of the same shape; all live before the first cut."""
        start = 0
        for name in self.names:
            weight = net.get_parameter(f"{name}.weight")
            if self.live is None:
                yield weight, torch.ones_like(weight, dtype=torch.bool)
            else:
                yield weight, self.live[start : start + weight.numel()].view_as(weight)
            start += weight.numel()

    def _thresholds(self, weights: Sequence[Tensor], fraction: float) -> list[float]:
        """One threshold for each layer; ``fraction`` of the schedule's rounds is done after this cut."""
        if self.variant == "layer_std":
            return [float(criteria.layer_std_threshold(weight, self.quality)) for weight in weights]
        total = sum(weight.numel() for weight in weights)
        num_live = sum(int(torch.count_nonzero(weight)) for weight in weights)
        target = (1.0 - step_ratio(self.prune_ratio, fraction)) * total
        share = max(0.0, 1.0 - target / num_live) if num_live < total else step_ratio(self.prune_ratio, fraction)
        return [float(criteria.remaining_threshold(weights, share))] * len(weights)

    @torch.no_grad()
    def _zero(self, net: nn.Module) -> None:
        for weight, mask in self._weights(net):
            weight.mul_(mask)

    def _report(self, net: nn.Module, job: Job) -> None:
        kept = {
            name: float(mask.float().mean()) for name, (_, mask) in zip(self.names, self._weights(net), strict=True)
        }
        for name in (name for name, share in kept.items() if share == 0.0):
            try:
                job.graph.check(Plan(keep={name: ()}))
            except UserError:
                raise UserError(
                    f"all weights of {name} fall below the threshold and nothing bypasses the layer; "
                    "lower method.prune_ratio (or method.quality), or leave it out of method.layers"
                ) from None
        job.not_pruned = [
            {"layer": name, "reason": "all its weights are above the threshold"}
            for name, share in kept.items()
            if share == 1.0
        ]
        assert self.live is not None
        job.achieved = {"weights_kept": float(self.live.float().mean())}
        log.info("kept weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in kept.items()))
