"""DCFF: a narrow net whose filters are averages of larger banks, and which filters they stand for is decided anew.

Lin, Chen, Chao, Ji: Training compact CNNs for image classification using dynamic-coded filter fusion, TNNLS 2023;
official code lmbxmu/DCFF, c665052.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench.budget import amounts
from prunebench.budget.counts import CountName, PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.criteria import proxies
from prunebench.errors import UserError
from prunebench.layers.fused import FusedConv2d, fused_layers
from prunebench.measure.layer_sizes import thop_macs
from prunebench.methods.bases.channels import PROJECTIONS, ChannelMethod
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace
from prunebench.surgery.shrink import shrink

log = logging.getLogger("prunebench")

Score = Annotated[str, Among(("logspace", "official"))]
Slots = Annotated[str, Among(("stable", "topk"))]


@validated
@dataclass(frozen=True, kw_only=True)
class Temperature:
    """The inverse temperature of an epoch: what distances between filters are multiplied with.

    Attributes:
        k: steepness of its rise, per epoch.
        start, end: before the first and after the last epoch.

    Raises:
        UserError: a value out of its range, or it falls.
    """

    k: PositiveFloat = 1.0
    start: NonNegativeFloat = 1.0
    end: PositiveFloat = 1e4

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise UserError(f"temperature.end must be at least temperature.start={self.start:g}, got {self.end:g}")

    def at(self, clock: Clock) -> float:
        """In the epoch of ``clock``, eq. 6."""
        return proxies.inverse_temperature(clock.epoch, clock.num_epochs, k=self.k, start=self.start, end=self.end)


@validated
class DCFF(ChannelMethod):
    """Train the small net from scratch; each convolution keeps a bank of as many filters as the dense net's.

    Before an epoch each filter j of a bank gets a proxy: the softmax of minus its distances to all filters, times an
    inverse temperature that grows. The m filters whose proxies differ most from all others' (summed Kullback-Leibler
    divergence) are chosen, and in that epoch the layer computes with the m averages of the bank that their proxies
    weigh, recomputed from the moving bank at each step. In the end the averages are the filters of the small net.
    There is no pretraining, no further loss and no fine-tuning. Under ``scratch_e`` and ``scratch_b`` the dense net is
    trained too, only to be compared with.

    All convolutions have banks, also those that lose nothing, but 1x1 shortcuts, which share the width of their sum.
    Which positions of the dense net the m outputs take changes nothing: the plan keeps the middle ones, which a
    zero-padding shortcut carries into the middle of the next stage.

    The official code's score is frozen by its arithmetic after the first epoch, on random weights
    (main_cifar.py:283-299): ``score="official"`` does the same, ``"logspace"`` is what the paper describes.

    Args:
        prune_ratio: share of the filters of each layer that goes, or a table name or glob -> share.
        target_macs, target_params: share of the dense net that stays; replaces ``prune_ratio``.
        score: "logspace" or "official".
        slot_assignment: "stable": a filter that stays chosen keeps its output; "topk": outputs in the order of the
            scores, as in the official code up to the order within ``torch.topk``.
        temperature: its rise.
        update_every_epochs: epochs between two choices.
        layers, skip, count, min_channels, round_to: see :class:`~prunebench.methods.bases.channels.ChannelMethod`.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"scratch", "scratch_e", "scratch_b"})

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None,
        target_macs: amounts.TargetShare | None = None,
        target_params: amounts.TargetShare | None = None,
        score: Score = "logspace",
        slot_assignment: Slots = "stable",
        temperature: Temperature | None = None,
        update_every_epochs: PositiveInt = 1,
        layers: Annotated[str, Among(("all", "interior"))] | Sequence[str] = "all",
        skip: Sequence[str] | None = None,
        count: CountName = "keep_truncated",
        min_channels: PositiveInt = 1,
        round_to: PositiveInt = 1,
    ) -> None:
        super().__init__(
            prune_ratio=prune_ratio,
            target_macs=target_macs,
            target_params=target_params,
            layers=layers,
            skip=skip,
            coupling="aligned",
            count=count,
            min_channels=min_channels,
            round_to=round_to,
        )
        self.score = score
        self.slot_assignment = slot_assignment
        self.temperature = temperature or Temperature()
        self.update_every_epochs = update_every_epochs
        self._slot_changes = self._frozen_layers = 0  # of the epoch in progress: they follow from its start

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        plan = self.choose(self.scores(net, run), run.graph).plan
        small = shrink(net, run.graph, plan)
        for name in self._with_bank(run.graph):
            if type(small.get_submodule(name)) is not nn.Conv2d:
                raise UserError(
                    f"layer {name} writes into a sum that is wider than it: a stage keeps fewer channels than its "
                    "shortcut brings; give later stages lower ratios in method.prune_ratio"
                )

    def scores(self, net: nn.Module, run: Run) -> Mapping[str, Tensor]:
        """Minus the distance from the middle: the plan says how many channels stay, the banks what they are."""
        widths = {name: run.graph.layers[name].out_channels for name in self.scored(run.graph)[0]}
        return {name: -(torch.arange(width) - (width - 1) / 2).abs() for name, width in widths.items()}

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        layer, kind = graph.layers[name], type(graph.traced.net.get_submodule(name))
        if layer.kind == "conv" and kind is not nn.Conv2d:
            return f"it is a {kind.__name__}; only filters of plain Conv2d layers are fused"
        return None if layer.kind == "conv" else f"it is a {layer.kind} layer; only filters of convolutions are fused"

    # -- in training

    def fresh(self, net: nn.Module, run: Run) -> nn.Module:
        return self.attach(net, run)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if fused_layers(net):
            return net
        banks = self._with_bank(run.graph)
        fused: dict[str, nn.Module] = {}
        for name in banks:
            conv = net.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)  # see check
            fused[name] = FusedConv2d(conv, num_filters=run.graph.layers[name].out_channels)
        return run.fresh(replace(net, fused))  # with random weights, as the net draws them

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._slot_changes = self._frozen_layers = 0
        if clock.epoch % self.update_every_epochs:
            return
        temperature = self.temperature.at(clock)
        for name, layer in fused_layers(net).items():
            self._choose_filters(name, layer, temperature)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        layers = fused_layers(net).values()
        own = torch.cat([layer.proxies.amax(1) for layer in layers])
        return {
            "slot_changes": self._slot_changes,
            "frozen_layers": self._frozen_layers,
            "own_share": float(own.mean()),  # of a filter in the average that stands for it: 1 = single filters
        }

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        fused = fused_layers(net)
        if not fused:
            return Extracted(net=net)
        compact = replace(net, {name: layer.plain() for name, layer in fused.items()})
        small, dense = thop_macs(run.graph, run.plan), thop_macs(run.graph, Plan())
        log.info("as thop counts: %s of %s, %.2f %% removed", f"{small:,}", f"{dense:,}", 100 * (1 - small / dense))
        counts = {"macs_thop": small, "dense_macs_thop": dense, "macs_thop_removed": 1 - small / dense}
        return Extracted(net=compact, achieved=counts, max_abs_diff=run.max_abs_diff(net, compact))

    # -- helpers

    @torch.no_grad()
    def _choose_filters(self, name: str, layer: FusedConv2d, temperature: float) -> None:
        """Set the proxies of a layer for the epochs until the next choice."""
        gaps = proxies.distances(layer.weight)
        logs = proxies.log_proxies(gaps, temperature)
        official = self.score == "official"
        scores = proxies.official_importance(gaps, temperature).double() if official else proxies.importance(logs)
        known = bool((layer.slots >= 0).all())
        if bool(scores.isfinite().all()):
            layer.scores.copy_(scores)
        elif official and known:
            self._frozen_layers += 1  # the scores of an earlier epoch stay
        else:
            why = (
                "the formula of method.score=official underflows; use method.score=logspace"
                if official
                else ("has the training diverged?")
            )
            raise UserError(f"the scores of the filters of {name} are not finite at T = {temperature:g}: {why}")
        chosen = proxies.strongest(layer.scores, layer.out_channels)
        slots = proxies.stable_slots(layer.slots, chosen) if self.slot_assignment == "stable" else chosen
        self._slot_changes += int((slots != layer.slots).sum()) if known else 0
        layer.slots.copy_(slots)
        layer.proxies.copy_(logs[slots].exp())

    def _with_bank(self, graph: ChannelGraph) -> list[str]:
        """The layers with banks: all that are asked but 1x1 shortcuts and those that stay as they are."""
        plain = {*self._skipped(graph)}
        names = self.scored(graph)[0]
        return [n for n in names if n not in plain and not any(fnmatchcase(n, pattern) for pattern in PROJECTIONS)]
