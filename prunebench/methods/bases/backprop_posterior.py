"""A normal distribution for every weight, learned by backpropagation (Blundell et al. 2015)."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, OpenFraction, Range
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.layers.priors import GaussianMixturePrior, LogScale, Scale
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_gaussian
from prunebench.methods.bases.variational import VariationalMethod


@validated
class BackpropPosterior(VariationalMethod):
    """Learn N(mean, std^2) for each weight under a prior, std = softplus(spread).

    ``prior: mixture`` is that of Blundell et al. (eq. 7), a mixture of two Gaussians for each weight; it has no closed
    KL, so ln q - ln p is taken on one draw of the weights a step. ``gaussian`` and ``laplace`` have closed ones.

    No official code. Deviations: the KL draw is not the one of the forward pass (as unbiased), the KL has the same
    share in each batch (not 2^(M-i)), one draw a step.

    Args:
        prior: "mixture", "gaussian" or "laplace".
        prior_std: standard deviation of the Gaussian, scale of the Laplace prior.
        share, log_wide, log_narrow: of the mixture: weight of the wide part, and ln of both deviations.
        spread: initial value; softplus(-3) = 0.0486.
        mean_range: means start uniform in +-this; null = as the model draws them.
        bias: whether biases are random too.
        estimator: "weight" (one draw a batch, the paper's), "lrt" or "flipout".
        **common: the arguments of the other base classes.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        prior: Annotated[str, Among(("mixture", "gaussian", "laplace"))],
        prior_std: Scale,
        share: OpenFraction,
        log_wide: LogScale,
        log_narrow: LogScale,
        spread: Annotated[float, Range(low=-100)],
        mean_range: NonNegativeFloat | None,
        bias: bool,
        estimator: Annotated[str, Among(("weight", "lrt", "flipout"))],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not log_narrow < log_wide:
            raise UserError(f"method.log_narrow={log_narrow!r} must be below method.log_wide={log_wide!r}")
        self.prior, self.prior_std = prior, float(prior_std)
        self.mixture = GaussianMixturePrior(share=share, wide=math.exp(log_wide), narrow=math.exp(log_narrow))
        self.spread, self.mean_range = float(spread), mean_range
        self.bias, self.estimator = bias, estimator

    def swap(self, net: nn.Module) -> nn.Module:
        net = to_gaussian(
            net,
            self.names,
            scale="softplus",
            estimator=self.estimator,
            initial=self.spread,
            bias_initial=self.spread if self.bias else None,
        )
        if self.mean_range is not None:
            for layer in gaussian_layers(net).values():
                nn.init.uniform_(layer.weight, -self.mean_range, self.mean_range)
        return net

    def divergence(self, net: nn.Module) -> Tensor:
        terms = [self._divergence(layer) for layer in gaussian_layers(net).values()]
        return torch.stack(terms).sum()

    def _divergence(self, layer: GaussianWeights) -> Tensor:
        pairs = [(layer.weight, layer.std())]
        bias_std = layer.bias_std()
        if bias_std is not None:
            pairs.append((layer.bias, bias_std))
        return torch.stack([self._from_prior(mean, std).sum() for mean, std in pairs]).sum()

    def _from_prior(self, mean: Tensor, std: Tensor) -> Tensor:
        if self.prior == "gaussian":
            return kl.gaussian(mean, std, self.prior_std)
        if self.prior == "laplace":
            return kl.laplace(mean, std, self.prior_std)
        drawn = mean + std * torch.randn_like(mean)
        return kl.gaussian_log_prob(drawn, mean, std) - self.mixture.log_prob(drawn)
