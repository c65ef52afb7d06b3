"""From a plain net to one with Gaussian weights, to the plain net of its means, and to a small net with both."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.layers.gaussian_layers import gaussian, plain
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace
from prunebench.surgery.shrink import shrink

log = logging.getLogger("prunebench")

DEAD = -1.0e4
"""Value of ``spread`` that makes a standard deviation exactly 0 under softplus and exp."""
_SILENT = {"softplus": DEAD, "exp": DEAD, "std": 0.0, "log_alpha": None}
"""Scale -> the ``spread`` of a weight without noise; None: noise that is multiplied with a weight of 0 is 0 anyway."""


def gaussian_layers(net: nn.Module) -> dict[str, GaussianWeights]:
    """Path -> layer with Gaussian weights, in the order of the net."""
    return {name: module for name, module in net.named_modules() if isinstance(module, GaussianWeights)}


def ordinary_layers(net: nn.Module, graph: ChannelGraph) -> list[str]:
    """The linear layers and convolutions of a net that can have Gaussian weights."""
    return [name for name in graph.layers if isinstance(net.get_submodule(name), nn.Linear | nn.Conv2d)]


def to_gaussian(net: nn.Module, names: Collection[str], **options: Any) -> nn.Module:
    """A copy of ``net`` whose layers ``names`` have Gaussian weights, with the old weights as means.

    Args:
        options: of :class:`~prunebench.layers.gaussian_layers.GaussianLinear`.
    """

    def make(path: str, module: nn.Module) -> nn.Module | None:
        fits = path in names and isinstance(module, nn.Linear | nn.Conv2d)
        return gaussian(module, **options) if fits else None  # type: ignore[arg-type]

    return replace(net, make)


def to_plain(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with ordinary layers, whose weights are the means; those of dead weights are exactly 0."""
    return replace(net, lambda path, module: plain(module) if isinstance(module, GaussianWeights) else None)


@torch.no_grad()
def silenced(net: nn.Module, dead: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``net`` whose dead weights are 0 in mean and deviation, so that every draw has them at 0.

    Args:
        net: with Gaussian layers; noise that is clamped to the size of a weight (log_variance) must have gone through
            :func:`settled`.
        dead: path of a layer -> which of its weights go, bool ``[out, in, ...]``.
    """
    net = copy.deepcopy(net)
    layers = gaussian_layers(net)
    for name, mask in dead.items():
        layer = layers[name]
        assert layer.scale in _SILENT, f"{name} has noise of scale {layer.scale}"
        layer.weight[mask] = 0
        silent = _SILENT[layer.scale]
        if silent is not None:
            layer.spread[mask] = silent
    return net


def shares_noise(net: nn.Module) -> bool:
    """Whether some weights of ``net`` are not independent: all of an input unit share their noise."""
    return any(layer.estimator == "input" for layer in gaussian_layers(net).values())


def settled(net: nn.Module, graph: ChannelGraph) -> nn.Module:
    """The same distribution without traces of training: dead weights are 0, each deviation stands for itself.

    A net whose weights share noise is left as it is, since deviations would not say that.
    """
    return net if shares_noise(net) else with_spread(to_plain(net), net, graph, Plan())


def removed(dead: Mapping[str, Tensor], *, why_whole: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """What ``dead`` says of each layer: those that lose nothing, with the reason, and facts for the result."""
    shares = {name: float(mask.float().mean()) for name, mask in dead.items()}
    log.info("dead weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    total, num_dead = sum(m.numel() for m in dead.values()), sum(int(m.sum()) for m in dead.values())
    achieved = {"weights": total, "weights_live": total - num_dead, "sparsity_per_layer": shares}
    return [{"layer": name, "reason": why_whole} for name, share in shares.items() if not share], achieved


@torch.no_grad()
def with_spread(compact: nn.Module, net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of ``compact`` with Gaussian layers: its own means, the standard deviations of ``net``.

    Args:
        compact: ``to_plain(net)`` after ``shrink`` with ``plan``, or itself if the plan is empty.
        net: the trained net with Gaussian layers (dense shapes).
        graph: of the dense net.
    """
    layers = gaussian_layers(net)
    spreads = to_plain(net)
    for name, layer in layers.items():
        module = spreads.get_submodule(name)
        module.get_parameter("weight").copy_(layer.posterior()[1])
        bias_std = layer.bias_std()
        if layer.bias is not None:
            module.bias = nn.Parameter(torch.zeros_like(layer.bias) if bias_std is None else bias_std)
    small = shrink(spreads, graph, plan) if plan.keep or plan.inputs else spreads

    def make(path: str, module: nn.Module) -> nn.Module | None:
        if path not in layers:
            return None
        random_bias = layers[path].bias_std() is not None
        source = small.get_submodule(path)
        new = gaussian(module, scale="std", initial=0.0, bias_initial=0.0 if random_bias else None)  # type: ignore[arg-type]
        new.spread = nn.Parameter(source.get_parameter("weight").clone())
        if random_bias:
            new.bias_spread = nn.Parameter(source.get_parameter("bias").clone())
        return new

    return replace(compact, make)


def sparsity(net: nn.Module) -> dict[str, Tensor]:
    """Path of each Gaussian layer -> which of its weights are dead, bool ``[out, in, ...]``."""
    found = {}
    for name, layer in gaussian_layers(net).items():
        live = layer.live()
        found[name] = torch.zeros_like(layer.weight, dtype=torch.bool) if live is None else ~live
    return found


@torch.no_grad()
def live_means(net: nn.Module, names: Collection[str]) -> dict[str, int]:
    """Path of a linear layer or convolution among ``names`` -> how many of its weights have a mean other than 0."""
    found = {}
    for name, module in net.named_modules():
        if name in names and isinstance(module, nn.Linear | nn.Conv2d):
            mean = module.posterior()[0] if isinstance(module, GaussianWeights) else module.weight
            found[name] = int(torch.count_nonzero(mean))
    return found
