"""One draw of all random weights of a net, its density under posterior and prior, and what two draws differ in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.layers import kl
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.layers.priors import Prior
from prunebench.methods.bases.gaussian_nets import gaussian_layers

Draws = list[tuple[GaussianWeights, tuple[Tensor, Tensor | None]]]
"""Each Gaussian layer with its weights and biases."""


def draw(net: nn.Module) -> Draws:
    """New weights and biases of all Gaussian layers of ``net``."""
    return [(layer, layer.draw()) for layer in gaussian_layers(net).values()]


def log_ratio(drawn: Draws, prior: Prior, *, detached_mean: bool = False) -> Tensor:
    """ln q(w) - ln p(w) at the drawn weights and random biases, a sum, nats; its mean over draws is the KL.

    Args:
        detached_mean: no gradient through the mean of q. What it leaves out is 0 in the total derivative.
    """

    def ratio(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        centre = mean.detach() if detached_mean else mean
        return (kl.gaussian_log_prob(value, centre, std) - prior.log_prob(value)).sum()

    terms = []
    for layer, (weight, bias) in drawn:
        terms.append(ratio(weight, layer.weight, layer.std()))
        bias_std = layer.bias_std()
        if bias is not None and bias_std is not None:
            terms.append(ratio(bias, layer.bias, bias_std))
    return torch.stack(terms).sum()


def variance_term(first: Tensor, second: Tensor) -> Tensor:
    """(p^2 - p p') / max(p, p')^2 of each example, in log space: PAC^2-type bounds (Masegosa 2020; Mohan et al. 2022).

    Args:
        first, second: probability of the true class under two draws of the weights, ``[B]``.
    """
    tiny = torch.finfo(first.dtype).tiny
    one, other = first.clamp_min(tiny).log(), second.clamp_min(tiny).log()
    largest = torch.maximum(one, other)
    return (2 * one - 2 * largest).exp() - (one + other - 2 * largest).exp()
