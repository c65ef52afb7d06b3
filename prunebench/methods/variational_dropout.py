"""Variational dropout: Gaussian dropout whose rates are learned; nothing is removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Range
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.gaussian_weights import GaussianWeights, Shape
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_gaussian, to_plain, with_spread
from prunebench.methods.bases.variational import VariationalMethod
from prunebench.surgery.plan import Plan

_Rate = Annotated[float, Range(above=0, high=0.5, meaning="a dropout rate")]


@validated
class VariationalDropout(VariationalMethod):
    """Learn the rate alpha of Gaussian dropout under a log-uniform prior; Kingma, Salimans, Welling 2015.

    ``noise: A`` (correlated weight noise) multiplies the input by N(1, alpha), for each example and input anew; one
    posterior for each input unit, so one KL term each. ``noise: B`` (independent weight noise) draws the output by
    local reparameterisation, as if each weight had the variance alpha w^2; one KL term for each weight. The paper's A2
    is A with ``kl_weight`` 1/3. ``learn: false`` keeps the rates, without a KL term: plain Gaussian dropout.

    alpha <= 1 after every step, since the KL polynomial (appendix C) holds only there. Test time: the mean of the
    weights, or ``num_samples``. There is no official code.

    Args:
        noise: "A" or "B".
        shape: what has a rate of its own: "weight" (B only), "unit" (an input unit or channel) or "layer".
        rate: initial dropout rate p of the layers, alpha = p / (1 - p); in (0, 0.5].
        input_rate: the same for the net's first layer.
        learn: whether the rates are learned.
        **common: the arguments of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        noise: Annotated[str, Among(("A", "B"))],
        shape: Shape,
        rate: _Rate,
        input_rate: _Rate,
        learn: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if noise == "A" and shape == "weight":
            raise UserError("method.noise=A has one rate an input unit or a layer; use method.shape=unit or layer")
        self.noise, self.shape, self.learn = noise, shape, learn
        self.rate, self.input_rate = rate, input_rate

    def swap(self, net: nn.Module) -> nn.Module:
        estimator = "input" if self.noise == "A" else "lrt"
        for names, rate in ((self.names[:1], self.input_rate), (self.names[1:], self.rate)):
            if names:
                log_alpha = math.log(rate / (1 - rate))
                net = to_gaussian(
                    net, names, scale="log_alpha", estimator=estimator, shape=self.shape, initial=log_alpha
                )
        for layer in gaussian_layers(net).values():
            layer.spread.requires_grad_(self.learn)
        return net

    def divergence(self, net: nn.Module) -> Tensor:
        if not self.learn:
            return torch.zeros((), device=self.kl_now.device)
        return torch.stack([_divergence(layer) for layer in gaussian_layers(net).values()]).sum()

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        with torch.no_grad():
            for layer in gaussian_layers(net).values():
                layer.spread.clamp_(max=0.0)

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        rates = [float(layer.spread.exp().mean()) for layer in gaussian_layers(net).values()]
        return {**super().report(net), "mean_alpha": sum(rates) / len(rates)}

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        whole = [{"layer": name, "reason": "the method removes nothing"} for name in gaussian_layers(net)]
        means = to_plain(net)
        if not self.num_samples:
            return Extracted(net=means, not_pruned=whole)
        # independent weights are kept like those of other posteriors, by their deviations
        saved = net if self.noise == "A" else with_spread(means, net, run.graph, Plan())
        return Extracted(net=saved, not_pruned=whole)


def _divergence(layer: GaussianWeights) -> Tensor:
    """Sum over what is random: the weights, or with noise on the inputs the input units (channels)."""
    values = kl.log_uniform_cubic(layer.spread)
    independent = layer.weight.shape[1] if layer.estimator == "input" else layer.weight.numel()
    return values.sum() * (independent / values.numel())
