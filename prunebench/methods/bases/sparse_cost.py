"""What a net with zeros among its weights would cost if zeros were not multiplied."""

from __future__ import annotations

from torch import nn

from prunebench.core.context import Run
from prunebench.layers.own_weight import has_own_weight
from prunebench.methods.bases.gaussian_nets import live_means


def sparse_macs(net: nn.Module, run: Run) -> int:
    """Multiply-accumulates of one sample without those of weights whose mean is 0.

    A weight of a convolution is used at each position of the output, so that one that goes saves as many.

    Args:
        net: the run's net, whole or with fewer channels in the same places.
    """
    total = 0.0
    live = live_means(net, [row["layer"] for row in run.base.cost.per_layer])
    modules = dict(run.template.named_modules())
    for row in run.base.cost.per_layer:
        module = modules.get(row["layer"]) if row["macs"] and row["kind"] != "matmul" else None
        if isinstance(module, nn.Linear | nn.Conv2d) and has_own_weight(module):
            total += row["macs"] * live.get(row["layer"], 0) / module.weight.numel()
        else:
            total += row["macs"]
    return round(total)
