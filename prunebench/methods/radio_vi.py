"""Variational inference with a cold posterior for radio galaxies; fully connected weights go by SNR or Fisher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.budget.counts import PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, FractionBelowOne, NonNegativeFloat, Range
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import match_layers
from prunebench.core.task import Batch, Task
from prunebench.criteria.fisher import Ranking, weakest
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import GaussianWeights, holding
from prunebench.layers.sampling import is_stochastic
from prunebench.layers.weight_priors import Mixture, PriorName, Scale, WeightPrior
from prunebench.measure import uncertainty_calibration
from prunebench.methods.bases.gaussian_nets import gaussian_layers, removed, silenced, to_gaussian
from prunebench.methods.bases.recorded_draws import Recorded
from prunebench.methods.bases.variational import VariationalMethod
from prunebench.methods.bases.weight_draws import Draws, draw, log_ratio, variance_term

BETA2 = 0.999
"""Decay of Adam's second moment, which is the official estimate of the Fisher information."""
Exponent = Annotated[float, Range(low=-80, high=80)]


@validated
class RadioVI(VariationalMethod):
    """Learn N(mean, std^2) for each weight and bias, std = e^spread, under a tempered KL; then prune linear layers.

    Mohan et al., MNRAS 2022. Minimised on each batch, with one draw w of all weights: sum of NLL + T / n_b
    (ln q(w) - ln p(w)), n_b batches an epoch; T = 1 is the ELBO, T < 1 a cold posterior. After training the share
    ``prune_ratio`` of the weights of the linear layers goes, in mean and deviation, without training afterwards.
    Each measurement has ``metrics.<stage>.method``: error of single draws, UCE, class-wise UCE and overlap, also on the
    data set's further test sets.

    Args:
        prior: "gaussian", "gmm", "laplace" or "laplace_mixture".
        gaussian_std: standard deviation (the official code calls it a variance, priors.py:6-16).
        laplace_scale: b of the Laplace prior.
        gmm, laplace_mixture: weight of the wide part and both scales of these mixtures.
        temperature: T.
        kl_share: "equal" = T / n_b in each batch; "blundell" = 2^(n_b - b - 1) / (2^n_b - 1) in batch b, without T.
        reduction: "sum" or "mean" of the loss over the batch; with "mean" the KL is divided by the batch size too.
        pac: subtract the variance term of misspecification-aware inference; here it has a gradient, officially none.
        detached_mean: ln q with a detached mean, as official layers.py:58-78: as unbiased, with more noise.
        mean_range: means start uniform in +-this; null = as the model draws them.
        spread_low, spread_high: between which spreads start.
        prune_ratio: share of the weights of ``prune_layers`` that goes, in [0, 1).
        prune_layers: names and globs of the linear layers that are pruned, ranked together.
        ranking: "snr", "fisher", "magnitude", or "magnitude_fisher": both, one after the other.
        fisher_share: of the latter: share r of what goes that is chosen by Fisher information.
        curve_ratios, curve_rankings: further operating points of the trained net: each ratio by each ranking.
        **common: ``layers`` and ``num_samples`` of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    fisher: Tensor

    def __init__(
        self,
        *,
        prior: PriorName,
        gaussian_std: Scale,
        laplace_scale: Scale,
        gmm: Mixture,
        laplace_mixture: Mixture,
        temperature: NonNegativeFloat,
        kl_share: Annotated[str, Among(("equal", "blundell"))],
        reduction: Annotated[str, Among(("sum", "mean"))],
        pac: bool,
        detached_mean: bool,
        mean_range: NonNegativeFloat | None,
        spread_low: Exponent,
        spread_high: Exponent,
        prune_ratio: PruneRatio,
        prune_layers: Sequence[str],
        ranking: Ranking,
        fisher_share: Fraction,
        curve_ratios: Sequence[FractionBelowOne],
        curve_rankings: Sequence[Ranking],
        **common: Any,
    ) -> None:
        super().__init__(kl_weight=temperature, kl_start=0, kl_warmup=0, **common)
        if spread_low > spread_high:
            raise UserError(f"method.spread_low={spread_low!r} must not be above method.spread_high={spread_high!r}")
        mixtures = {"gmm": gmm, "laplace_mixture": laplace_mixture}
        self.prior = WeightPrior(name=prior, gaussian_std=gaussian_std, laplace_scale=laplace_scale, **mixtures)
        self.kl_share, self.reduction = kl_share, reduction
        self.pac, self.detached_mean = pac, detached_mean
        self.mean_range, self.spreads = mean_range, (spread_low, spread_high)
        self.prune_ratio, self.prune_layers = float(prune_ratio), prune_layers
        self.ranking, self.fisher_share = ranking, float(fisher_share)
        self.curve = [(kind, ratio) for kind in curve_rankings for ratio in curve_ratios]
        self.pruned: list[str] = []
        self.num_batches = self.batch_size = 1

    # -- hooks

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        self.num_batches = run.steps_per_epoch(run.phase) * run.phase.accumulate
        self.batch_size = run.phase.batch_size or run.data.batch_size
        if not is_stochastic(net):
            run.seed_all("posterior")
        net = super().attach(net, run)
        size = sum(layer.weight.numel() for layer in self._ranked(net).values())
        if getattr(self, "fisher", torch.empty(0)).numel() != size:
            self.register_buffer("fisher", torch.zeros(size))  # E[(d loss / d mean)^2] of each weight that may go
        return net

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        for phase in run.phases:
            if phase.pretrain and self.mean_range is not None:
                raise UserError(f"method.mean_range={self.mean_range!r} overwrites pretrained means; set it to null")
            if self.kl_share == "blundell" and phase.accumulate > 1:
                where = f"schedule.phases.{phase.name}.accumulate={phase.accumulate}"
                raise UserError(f"method.kl_share=blundell differs from batch to batch, {where} joins them; use equal")

    def swap(self, net: nn.Module) -> nn.Module:
        low, high = self.spreads
        net = to_gaussian(net, self.names, scale="exp", estimator="weight", initial=low, bias_initial=low)
        for layer in gaussian_layers(net).values():
            for spread in (layer.spread, layer.bias_spread):
                if spread is not None:
                    nn.init.uniform_(spread, low, high)
            for mean in (layer.weight, layer.bias):
                if mean is not None and self.mean_range is not None:
                    nn.init.uniform_(mean, -self.mean_range, self.mean_range)
        return net

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self.kl_now.fill_(self.share_of(0))

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.kl_now.fill_(self.share_of((clock.step + 1) % self.num_batches))

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        slopes = [grad.flatten() for layer in self._ranked(net).values() if (grad := layer.weight.grad) is not None]
        self.fisher.lerp_(torch.cat(slopes).float().square(), 1 - BETA2)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        layers = gaussian_layers(net)
        with holding(layers) as held:
            terms = dict(task.losses(net, batch))
            likely = task.probabilities(net, batch) if self.pac else None
        if likely is not None:
            with holding(layers):
                pair = (likely, task.probabilities(net, batch))
            terms["pac"] = -variance_term(*(p.gather(1, batch[1][:, None])[:, 0] for p in pair)).mean()
        drawn = [(layers[name], values) for name, values in held.items()]
        size = batch[1].numel() if self.reduction == "sum" else 1
        return {**{name: size * term for name, term in terms.items()}, "kl": self.kl_now * self._log_ratio(drawn)}

    @torch.no_grad()
    def divergence(self, net: nn.Module) -> Tensor:
        return self._log_ratio(draw(net))

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if self.prune_ratio:
            run.measure("before_cut", net)
        dead = self.weakest(net, self.ranking, self.prune_ratio)
        reason = "all its weights rank above the threshold" if self.prune_ratio else "prune_ratio is 0"
        whole, achieved = removed(dead, why_whole=reason)
        others = [name for name in gaussian_layers(net) if name not in dead]
        whole += [{"layer": name, "reason": "only linear layers are pruned"} for name in others]
        return self.cut_unread(silenced(net, dead), run, whole=whole, achieved=achieved)

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        for ranking, ratio in self.curve:
            pruned = silenced(net, self.weakest(net, ranking, ratio))
            settings = {"ranking": ranking, "prune_ratio": ratio}
            yield Point(name=f"{ranking}_{100 * ratio:g}", net=pruned, settings=settings)

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if self.num_samples is None or not is_stochastic(net):
            return net
        return Recorded(net, num_samples=self.num_samples, seed=run.seed)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        found = super().predict(net, batch, task)
        if isinstance(net, Recorded):
            net.record(found, batch[1])
        return found

    @torch.no_grad()
    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        if not isinstance(net, Recorded):
            return {}
        found = uncertainty_calibration.summarise(*net.recorded())
        further = {}
        for name, batches in run.data.further_tests().items():
            for batch in batches:
                self.predict(net, batch, run.task)
            further[name] = uncertainty_calibration.summarise(*net.recorded())
        return {**found, "further": further} if further else found

    # -- helpers

    def share_of(self, batch: int) -> float:
        """Weight of ln q - ln p in the ``batch``-th (from 0) of an epoch's batches."""
        if self.kl_share == "blundell":
            share = 2.0 ** -(batch + 1) / (1.0 - 2.0**-self.num_batches)
        else:
            share = self.kl_weight / self.num_batches
        return share / (self.batch_size if self.reduction == "mean" else 1)

    @torch.no_grad()
    def weakest(self, net: nn.Module, ranking: str, ratio: float) -> dict[str, Tensor]:
        """Layer -> which of its weights go, bool ``[out, in]``: floor(ratio n) of the n weights of all together."""
        layers = self._ranked(net)
        means, stds = (torch.cat(parts) for parts in zip(*map(_flat, layers.values()), strict=True))
        fisher = self.fisher.to(means.device)
        dead = weakest(means, stds, fisher, ranking=ranking, ratio=ratio, fisher_share=self.fisher_share)
        parts = dead.split([layer.weight.numel() for layer in layers.values()])
        return {name: part.view_as(layer.weight) for (name, layer), part in zip(layers.items(), parts, strict=True)}

    def _log_ratio(self, drawn: Draws) -> Tensor:
        return log_ratio(drawn, self.prior, detached_mean=self.detached_mean)

    def _ranked(self, net: nn.Module) -> dict[str, GaussianWeights]:
        """The layers whose weights may go."""
        return {name: layer for name, layer in gaussian_layers(net).items() if name in self.pruned}

    def _choose(self, net: nn.Module, run: Run) -> None:
        super()._choose(net, run)
        linear = [name for name in self.names if isinstance(net.get_submodule(name), nn.Linear)]
        self.pruned = match_layers(self.prune_layers, linear, what="method.prune_layers")


def _flat(layer: GaussianWeights) -> tuple[Tensor, Tensor]:
    mean, std = layer.posterior()
    return mean.flatten(), std.flatten()
