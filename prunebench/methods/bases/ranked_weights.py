"""The end of methods that rank single weights of a posterior: a share goes, a curve over shares is measured."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.budget.counts import PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, FractionBelowOne
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import match_layers
from prunebench.criteria.fisher import Ranking, weakest
from prunebench.criteria.snr import decibels, signal_to_noise
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.measure.distribution import histogram
from prunebench.measure.pruning_curve import Spread, safe_ratio
from prunebench.methods.bases.gaussian_nets import gaussian_layers, live_means, removed, shares_noise, silenced
from prunebench.methods.bases.recorded_draws import Recorded, RecordedDraws
from prunebench.methods.bases.sparse_cost import sparse_macs

log = logging.getLogger("prunebench")

BETA2 = 0.999
"""Decay of Adam's second moment, which is the official estimate of the Fisher information."""
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Shares among which the largest safe one is sought."""
SCOPES: Mapping[str, tuple[type[nn.Module], ...]] = {
    "fc": (nn.Linear,),
    "conv": (nn.Conv2d,),
    "all": (nn.Linear, nn.Conv2d),
}
"""Which layers lose weights."""
UNPRUNED = "unpruned"
"""Name of the operating point of share 0, which is the same for all rankings."""


@validated
class RankedWeights(RecordedDraws):
    """After training the weights of lowest rank go, in mean and deviation, without training afterwards; biases stay.

    Mohan et al., MNRAS 2022. The weights of all layers in scope are ranked together. Every draw has a removed weight
    at 0. ``points`` measures further shares of the trained net.

    Args:
        scope: "fc", "conv" or "all": whose weights may go.
        prune_layers: names and globs of layers among them.
        prune_ratio: share that goes, in [0, 1); null = the largest of :data:`GRID` that is safe on the validation split
            (:func:`prunebench.measure.pruning_curve.safe_ratio`).
        ranking: of :data:`prunebench.criteria.fisher.RANKINGS`.
        fisher_share: of ``magnitude_fisher``: share r of what goes that is chosen by Fisher information.
        curve_ratios, curve_rankings: further operating points of the trained net: each ratio by each ranking; ratio 0
            is measured once.
        moments: keep the second moments of the gradients of training, as Adam does, for Fisher information.
        magnitude_norm: measure magnitudes in "layer_std", the deviation of the means of the layer, or as they are.
        **common: the arguments of :class:`~prunebench.methods.bases.recorded_draws.RecordedDraws`.

    Raises:
        UserError: an option outside its values.
    """

    fisher: Tensor

    def __init__(
        self,
        *,
        scope: Annotated[str, Among(SCOPES)],
        prune_layers: Sequence[str],
        prune_ratio: PruneRatio | None,
        ranking: Ranking,
        fisher_share: Fraction,
        curve_ratios: Sequence[FractionBelowOne],
        curve_rankings: Sequence[Ranking],
        moments: bool,
        magnitude_norm: Annotated[str, Among(("none", "layer_std"))],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.scope, self.prune_layers, self.prune_ratio = scope, prune_layers, prune_ratio
        self.ranking, self.fisher_share = ranking, float(fisher_share)
        self.curve_ratios, self.curve_rankings = sorted(set(curve_ratios)), list(dict.fromkeys(curve_rankings))
        self.moments, self.by_layer = moments, magnitude_norm == "layer_std"
        self.pruned: list[str] = []

    # -- training: the second moments of the gradients

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if self.prune_ratio is None and not (self.passes and run.data.num_val):
            raise UserError(
                "method.prune_ratio=null seeks the largest safe share by draws on the validation split; give a share, "
                "or method.num_samples and dataset.validation"
            )

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        net = super().attach(net, run)
        size = sum(layer.weight.numel() for layer in self.ranked(net).values())
        if self.moments and getattr(self, "fisher", torch.empty(0)).numel() != size:
            self.register_buffer("fisher", torch.zeros(size))  # E[(d loss / d mean)^2] of each weight that may go
        return net

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        if self.moments:
            slopes = [grad.flatten() for layer in self.ranked(net).values() if (grad := layer.weight.grad) is not None]
            # a common factor, as Adam's 1 / (1 - beta2^t), would change no rank
            self.fisher.lerp_(torch.cat(slopes).float().square(), 1 - BETA2)

    # -- afterwards

    def know_fisher(self, net: nn.Module, run: Run) -> None:
        """See to it that ``self.fisher`` is known if a ranking of the run needs it; from training it is."""

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        self.know_fisher(net, run)
        if self.prune_ratio != 0:
            run.measure("before_cut", net)
        facts: dict[str, Any] = {"distributions": self.distributions(net)}
        ratio = self.prune_ratio
        if ratio is None:
            ratio = run.once(f"safe-{self.ranking}", lambda: safe_ratio(self._validated(net, run)))
            facts |= {"prune_ratio": ratio, "chosen_on": "validation"}
            log.info("%s: up to %g %% of the weights can go safely, on the validation split", self.ranking, 100 * ratio)
        dead = self.weakest(net, self.ranking, ratio)
        whole, achieved = removed(dead, why_whole="all its weights rank above the threshold" if ratio else "none goes")
        others = [name for name in gaussian_layers(net) if name not in dead]
        kinds = {"fc": "linear layers", "conv": "convolutions", "all": "chosen layers"}[self.scope]
        whole += [{"layer": name, "reason": f"only {kinds} are pruned"} for name in others]
        found = silenced(net, dead)
        if self.num_samples and shares_noise(net):  # a smaller net could not say what its weights share
            return Extracted(net=found, not_pruned=whole, achieved={**achieved, **facts})
        return self.cut_unread(found, run, whole=whole, achieved={**achieved, **facts})

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        if 0 in self.curve_ratios:
            yield Point(name=UNPRUNED, net=net, settings={"prune_ratio": 0.0})
        for ranking in self.curve_rankings:
            for ratio in self.curve_ratios:
                if ratio:
                    pruned = silenced(net, self.weakest(net, ranking, ratio))
                    settings = {"ranking": ranking, "prune_ratio": ratio}
                    yield Point(name=f"{ranking}_{100 * ratio:g}", net=pruned, settings=settings)

    def conclude(self, points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """``safe_ratio``: ranking -> largest safe share of the measured curve, on the test set."""
        curves: dict[str, list[tuple[float, Spread]]] = {}
        for point in points:
            own, settings = point["metrics"].get("method"), point["settings"]
            if own:
                names = [settings["ranking"]] if "ranking" in settings else self.curve_rankings
                error = Spread(own["sample_error"], own["sample_error_sd"])
                for name in names:
                    curves.setdefault(name, []).append((settings["prune_ratio"], error))
        found = {name: safe_ratio(curve) for name, curve in curves.items() if curve[0][0] == 0}
        return {"safe_ratio": found} if found else {}

    @torch.no_grad()
    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        inner = net.net if isinstance(net, Recorded) else net
        live = sum(live_means(inner, self.pruned).values())
        total = sum(run.template.get_submodule(name).get_parameter("weight").numel() for name in self.pruned)
        facts = {"weights": total, "weights_removed": total - live, "macs_sparse": sparse_macs(inner, run)}
        return {**super().metrics(net, run), **facts}

    @torch.no_grad()
    def weakest(self, net: nn.Module, ranking: str, ratio: float) -> dict[str, Tensor]:
        """Layer -> which of its weights go, bool as its weight: floor(ratio n) of the n weights of all together."""
        layers = self.ranked(net)
        posteriors = [layer.posterior() for layer in layers.values()]
        means, stds = (torch.cat([part.flatten() for part in parts]) for parts in zip(*posteriors, strict=True))
        unit = None
        if self.by_layer:
            unit = torch.cat([mean.std(correction=0).expand(mean.numel()) for mean, _ in posteriors]).cpu().double()
        fisher = getattr(self, "fisher", means.new_zeros(0)).to(means.device)
        dead = weakest(means, stds, fisher, ranking=ranking, ratio=ratio, fisher_share=self.fisher_share, unit=unit)
        parts = dead.split([layer.weight.numel() for layer in layers.values()])
        return {name: part.view_as(layer.weight) for (name, layer), part in zip(layers.items(), parts, strict=True)}

    def distributions(self, net: nn.Module) -> dict[str, Any]:
        """Histograms of the means and of the signal-to-noise ratios in decibels, for each kind of layer."""
        found = {}
        for kind in ("fc", "conv"):
            layers = [layer for layer in self.ranked(net).values() if isinstance(layer, SCOPES[kind])]
            if layers:
                pairs = [layer.posterior() for layer in layers]
                means, stds = (torch.cat([part.flatten() for part in parts]) for parts in zip(*pairs, strict=True))
                found[f"mean of {kind} weights"] = histogram(means)
                ratios = decibels(signal_to_noise(means.double(), stds.double()))
                found[f"signal-to-noise ratio of {kind} weights in dB"] = histogram(ratios)
        return found

    def ranked(self, net: nn.Module) -> dict[str, GaussianWeights]:
        """The layers whose weights may go, in the order of the net."""
        return {name: layer for name, layer in gaussian_layers(net).items() if name in self.pruned}

    def _validated(self, net: nn.Module, run: Run) -> Iterator[tuple[float, Spread]]:
        """Errors on the validation split by rising share; each is measured when it is asked for."""
        for ratio in GRID:
            yield ratio, self.errors(silenced(net, self.weakest(net, self.ranking, ratio)), run.data.validation(), run)

    def _choose(self, net: nn.Module, run: Run) -> None:
        super()._choose(net, run)
        fit = [name for name in self.names if isinstance(net.get_submodule(name), SCOPES[self.scope])]
        if not fit:
            raise UserError(f"method.scope={self.scope}: the net has no such layer; use method.scope=all")
        self.pruned = match_layers(self.prune_layers, fit, what="method.prune_layers")
