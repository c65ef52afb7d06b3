"""Variational inference with a cold posterior for radio galaxies; fully connected weights go by SNR or Fisher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, Range
from prunebench.core.clock import Clock
from prunebench.core.context import Run
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import holding
from prunebench.layers.priors import (
    GaussianMixturePrior,
    GaussianPrior,
    LaplaceMixturePrior,
    LaplacePrior,
    Prior,
    Scale,
)
from prunebench.layers.sampling import is_stochastic
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_gaussian
from prunebench.methods.bases.ranked_weights import RankedWeights
from prunebench.methods.bases.weight_draws import Draws, draw, log_ratio, variance_term

Exponent = Annotated[float, Range(low=-80, high=80)]


@validated
class RadioVI(RankedWeights):
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
        **common: of the arguments of :class:`~prunebench.methods.bases.ranked_weights.RankedWeights` those of the cut
            and of the curve, ``layers`` and ``num_samples``.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        prior: Annotated[str, Among(("gaussian", "gmm", "laplace", "laplace_mixture"))],
        gaussian_std: Scale,
        laplace_scale: Scale,
        gmm: GaussianMixturePrior,
        laplace_mixture: LaplaceMixturePrior,
        temperature: NonNegativeFloat,
        kl_share: Annotated[str, Among(("equal", "blundell"))],
        reduction: Annotated[str, Among(("sum", "mean"))],
        pac: bool,
        detached_mean: bool,
        mean_range: NonNegativeFloat | None,
        spread_low: Exponent,
        spread_high: Exponent,
        **common: Any,
    ) -> None:
        super().__init__(
            kl_weight=temperature,
            kl_start=0,
            kl_warmup=0,
            scope="fc",
            moments=True,
            magnitude_norm="none",
            num_passes=None,
            **common,
        )
        if spread_low > spread_high:
            raise UserError(f"method.spread_low={spread_low!r} must not be above method.spread_high={spread_high!r}")
        self.prior = _prior(prior, gaussian_std, laplace_scale, gmm, laplace_mixture)
        self.kl_share, self.reduction = kl_share, reduction
        self.pac, self.detached_mean = pac, detached_mean
        self.mean_range, self.spreads = mean_range, (spread_low, spread_high)
        self.num_batches = self.batch_size = 1

    # -- hooks

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        self.num_batches = run.steps_per_epoch(run.phase) * run.phase.accumulate
        self.batch_size = run.phase.batch_size or run.data.batch_size
        if not is_stochastic(net):
            run.seed_all("posterior")
        return super().attach(net, run)

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

    # -- helpers

    def share_of(self, batch: int) -> float:
        """Weight of ln q - ln p in the ``batch``-th (from 0) of an epoch's batches."""
        if self.kl_share == "blundell":
            share = 2.0 ** -(batch + 1) / (1.0 - 2.0**-self.num_batches)
        else:
            share = self.kl_weight / self.num_batches
        return share / (self.batch_size if self.reduction == "mean" else 1)

    def _log_ratio(self, drawn: Draws) -> Tensor:
        return log_ratio(drawn, self.prior, detached_mean=self.detached_mean)


def _prior(
    name: str, std: float, scale: float, gmm: GaussianMixturePrior, laplace_mixture: LaplaceMixturePrior
) -> Prior:
    for key, mixture in (("gmm", gmm), ("laplace_mixture", laplace_mixture)):
        if not mixture.narrow < mixture.wide:
            raise UserError(f"method.{key}.narrow={mixture.narrow!r} must be below method.{key}.wide={mixture.wide!r}")
    priors: dict[str, Prior] = {
        "gaussian": GaussianPrior(std=std),
        "laplace": LaplacePrior(scale=scale),
        "gmm": gmm,
        "laplace_mixture": laplace_mixture,
    }
    return priors[name]
