"""Jensen-Shannon divergences in place of the KL term of Bayes by backprop, then the weights with the most noise go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, OpenFraction, PositiveFloat, Range
from prunebench.core.clock import Clock
from prunebench.core.context import Run
from prunebench.core.task import Batch, Task
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers import jensen_shannon, kl
from prunebench.layers.gaussian_weights import GaussianWeights, holding
from prunebench.layers.priors import GaussianMixturePrior, GaussianPrior, LaplacePrior, LogScale, Prior
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_gaussian
from prunebench.methods.bases.noisiest_weights import NoisiestWeights

Drawn = Mapping[str, tuple[Tensor, Tensor | None]]
"""Layer -> one draw of its weights and biases."""


@validated
class JensenShannon(NoisiestWeights):
    """Learn N(mean, std^2) for each weight and bias, pulled to a prior by a Jensen-Shannon divergence D.

    Thiagarajan, Ghosh 2024 (arXiv 2209.11366). The loss is the mean cross-entropy of a batch under one draw of the
    weights plus ``kl_weight`` (the paper's lambda) D / N for N training samples. ``js_g`` takes the geometric mean of
    posterior and prior, in closed form for a Gaussian prior, else on the draw of the forward pass and one of the
    prior; ``js_a`` the arithmetic mean of each weight's densities, always on these draws. ``kl`` is ``js_g`` with
    ``alpha`` 0. The pruning is ours; a measurement is one pass at the means unless ``num_samples`` is given.

    Official code: ponkrshnan/JS_BNNs. Deviations: densities in log space without the 1e-7 that bnn_metrics.py:33 adds
    to the deviation; ``kl`` has a ``kl_weight`` too (bnn_metrics.py:61-62 has none); one draw a step (the code can sum
    the losses of several).

    Args:
        divergence: "kl", "js_g" or "js_a".
        alpha: share of the posterior in the mean, and weight of the direction from the prior; unused by ``kl``.
        normalised: of ``js_g``: divide the geometric mean by its integral; null = with a Gaussian prior only.
        prior: "gaussian", "laplace" or "mixture".
        prior_std: standard deviation of the Gaussian, scale of the Laplace prior.
        share, log_wide, log_narrow: of the mixture: weight of the wide part, and ln of both deviations.
        sigma_semantics: "std", or "official_variance": softplus(spread) and ``prior_std`` are deviations where weights
            are drawn and variances in ``kl`` and ``js_g`` (bnn_metrics.py:20-24, 66-67); ``js_a`` has deviations.
        prior_draws: "batch" = new draws of the prior in each step, "epoch" = the same in a whole epoch
            (main.py:126-128).
        spread: initial value; softplus(-10) = 4.5e-5.
        output_std: the means of the net's output layer start from N(0, output_std^2); null = as they are.
        **common: the arguments of :class:`~prunebench.methods.bases.noisiest_weights.NoisiestWeights`.

    Raises:
        UserError: an option outside its values.
    """

    objective: ClassVar[str] = "divergence_from_prior"
    epoch_now: Tensor

    def __init__(
        self,
        *,
        divergence: Annotated[str, Among(("kl", "js_g", "js_a"))],
        alpha: Fraction,
        normalised: bool | None,
        prior: Annotated[str, Among(("gaussian", "laplace", "mixture"))],
        prior_std: Annotated[float, Range(low=1e-8)],
        share: OpenFraction,
        log_wide: LogScale,
        log_narrow: LogScale,
        sigma_semantics: Annotated[str, Among(("std", "official_variance"))],
        prior_draws: Annotated[str, Among(("batch", "epoch"))],
        spread: Annotated[float, Range(low=-100)],
        output_std: PositiveFloat | None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if sigma_semantics != "std" and prior != "gaussian":
            raise UserError(
                f"method.sigma_semantics={sigma_semantics} is the official code's for a Gaussian prior, "
                f"got method.prior={prior}; use std"
            )
        self.arithmetic, self.alpha = divergence == "js_a", 0.0 if divergence == "kl" else float(alpha)
        self.normalised = prior == "gaussian" if normalised is None else normalised
        self.prior = _prior(prior, prior_std, share, log_wide, log_narrow)
        self.variances = sigma_semantics == "official_variance"
        self.once_an_epoch = prior_draws == "epoch"
        self.spread, self.output_std = float(spread), output_std
        self.outputs: list[str] = []
        self.seed = 0
        self.register_buffer("epoch_now", torch.zeros((), dtype=torch.long))  # the prior's draws of an epoch need it

    # -- hooks

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self.seed = run.seed
        self.outputs = [name for name, layer in run.graph.layers.items() if layer.is_output]
        return super().attach(net, run)

    def swap(self, net: nn.Module) -> nn.Module:
        options = {"scale": "softplus", "estimator": "weight", "initial": self.spread, "bias_initial": self.spread}
        net = to_gaussian(net, self.names, **options)
        if self.output_std is not None:
            for name in set(self.outputs) & set(self.names):
                nn.init.normal_(net.get_submodule(name).get_parameter("weight"), std=self.output_std)
        return net

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        super().start_epoch(net, clock)
        self.epoch_now.fill_(clock.epoch)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        layers = gaussian_layers(net)
        with holding(layers) as drawn:
            losses = task.losses(net, batch)
        return {**losses, "divergence": self.kl_now * self._total(layers, drawn) / self.num_train}

    def divergence(self, net: nn.Module) -> Tensor:
        layers = gaussian_layers(net)
        return self._total(layers, {name: layer.draw() for name, layer in layers.items()})

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"divergence_nats": float(self.divergence(net)), "divergence_weight": float(self.kl_now)}

    # -- the divergence

    def _total(self, layers: Mapping[str, GaussianWeights], drawn: Drawn) -> Tensor:
        generator = self._same_in_an_epoch() if self.once_an_epoch else None
        terms = []
        for name, layer in layers.items():
            weight, bias = drawn[name]
            terms.append(self._from_prior(layer.weight, layer.std(), weight, generator).sum())
            bias_std = layer.bias_std()
            if bias is not None and bias_std is not None:
                terms.append(self._from_prior(layer.bias, bias_std, bias, generator).sum())
        return torch.stack(terms).sum()

    def _same_in_an_epoch(self) -> torch.Generator:
        seed = stream("prior", self.seed, int(self.epoch_now)).initial_seed()
        return torch.Generator(device=self.epoch_now.device).manual_seed(seed)

    def _from_prior(self, mean: Tensor, std: Tensor, drawn: Tensor, generator: torch.Generator | None) -> Tensor:
        """The divergence of each weight, in the shape of ``mean``."""
        if isinstance(self.prior, GaussianPrior) and not self.arithmetic:
            return self._closed(mean, std, self.prior.std)
        draws = (drawn, self.prior.draw(mean.detach(), generator))
        densities = (lambda value: kl.gaussian_log_prob(value, mean, std), self.prior.log_prob)
        if self.arithmetic:
            return jensen_shannon.sampled_arithmetic(*draws, *densities, alpha=self.alpha)
        found = jensen_shannon.sampled_geometric(*draws, *densities, alpha=self.alpha)
        if not self.normalised:
            return found
        return found + jensen_shannon.log_overlap_of(mean, std, self.prior.log_prob, alpha=self.alpha)

    def _closed(self, mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
        if self.variances:
            std, prior_std = std.sqrt(), math.sqrt(prior_std)
        found = jensen_shannon.geometric(mean, std, 0.0, prior_std, alpha=self.alpha)
        if self.normalised:
            return found
        return found - jensen_shannon.log_overlap(mean, std, 0.0, prior_std, alpha=self.alpha)


def _prior(kind: str, std: float, share: float, log_wide: float, log_narrow: float) -> Prior:
    if not log_narrow < log_wide:
        raise UserError(f"method.log_narrow={log_narrow!r} must be below method.log_wide={log_wide!r}")
    priors: dict[str, Prior] = {
        "gaussian": GaussianPrior(std=std),
        "laplace": LaplacePrior(scale=std),
        "mixture": GaussianMixturePrior(share=share, wide=math.exp(log_wide), narrow=math.exp(log_narrow)),
    }
    return priors[kind]
