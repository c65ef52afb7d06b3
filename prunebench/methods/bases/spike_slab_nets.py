"""Nets with spike-and-slab layers: priors of their gates, their divergence, and what a draw of the gates costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from prunebench.layers import kl
from prunebench.layers.inclusion_priors import edge_log_prior, node_log_priors
from prunebench.layers.spike_slab import SpikeSlab, Stds
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


def spike_slab_layers(net: nn.Module) -> dict[str, SpikeSlab]:
    """Path -> spike-and-slab layer, in the order of the net."""
    return {name: module for name, module in net.named_modules() if isinstance(module, SpikeSlab)}


def log_priors(net: nn.Module, gated: Mapping[str, str], outputs: list[str], *, num_train: int) -> dict[str, float]:
    """ln of the prior inclusion probability of each gated layer by the formulas of ``layers.inclusion_priors``.

    The formulas are for a chain of linear layers. Convolutions in front of hidden linear layers have the priors of
    these in turn, the first that of the first (official LeNet, SS_Gaussian_Node_Lenet.py:66-71); in a net without
    hidden linear layers the formula goes over its convolutions, with the weights of a filter as k_l. That reading is
    ours.

    Args:
        net: has all layers; ``gated``: name -> "node" or "edge".
        outputs: layers whose output is the net's.
        num_train: training samples.
    """
    weights = {name: net.get_submodule(name).get_parameter("weight") for name in [*gated, *outputs]}
    linear = [name for name in gated if weights[name].dim() == 2]
    chain = [*(linear or gated), *outputs[:1]]
    sizes = ([weights[name][0].numel() for name in chain], [len(weights[name]) for name in chain])
    if "edge" in gated.values():
        return dict.fromkeys(gated, edge_log_prior(*sizes, num_train))
    found = dict(zip(chain, node_log_priors(*sizes, num_train), strict=False))
    others = [name for name in gated if name not in found]
    return {**found, **{name: found[linear[min(k, len(linear) - 1)]] for k, name in enumerate(others)}}


def divergence(layer: SpikeSlab, stds: Stds, log_prior: float, prior_std: float) -> Tensor:
    """KL(q || p) of a layer, a scalar, nats.

    sum over gates of KL(Bernoulli) + P(gate = 1) sum over what it gates of KL(N(mean, std^2) || N(0, prior_std^2)); a
    layer without gates is the inner sum alone.

    Args:
        stds: of ``layer``.
    """
    std, bias_std = stds
    bias_slab = None if bias_std is None else kl.gaussian(layer.bias, bias_std, prior_std)
    if layer.selection == "edge":
        assert layer.location is not None
        total = _gated(layer.location, kl.gaussian(layer.weight, std, prior_std), log_prior)
        if layer.bias_location is not None and bias_slab is not None:
            total = total + _gated(layer.bias_location, bias_slab, log_prior)
        return total
    slab = kl.gaussian_by_row(layer.weight, std, prior_std)
    slab = slab if bias_slab is None else slab + bias_slab
    return slab.sum() if layer.location is None else _gated(layer.location, slab, log_prior)


def _gated(location: Tensor, slab: Tensor, log_prior: float) -> Tensor:
    return (kl.bernoulli(location, log_prior) + torch.sigmoid(location) * slab).sum()


def changed(net: nn.Module, change: Callable[[SpikeSlab], None]) -> nn.Module:
    """A copy of ``net`` whose spike-and-slab layers went through ``change``."""
    net = copy.deepcopy(net)
    for layer in spike_slab_layers(net).values():
        change(layer)
    return net


def plan_of(gates: Mapping[str, Tensor], graph: ChannelGraph) -> Plan:
    """The plan that keeps the nodes whose gate is on, where the graph can lose them.

    Args:
        gates: layer -> bool ``[out]``. The first node stands in for a layer that keeps none.
    """
    kept = {name: tuple(on.nonzero().flatten().tolist()) or (0,) for name, on in gates.items()}
    free = [name for name in kept if graph.why_not(name) is None]
    together = graph.must_stay(free)
    return Plan(keep={name: kept[name] for name in free if name not in together})


def share(on: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer -> share of its gates that are on."""
    return {name: float(gates.double().mean()) for name, gates in on.items()}


def logit(probability: float) -> float:
    """ln(p / (1 - p))."""
    return math.log(probability) - math.log1p(-probability)
