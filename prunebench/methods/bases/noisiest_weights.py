"""The end of a run with a Gaussian for every weight: those with the lowest signal-to-noise ratio go."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget.amounts import Scope
from prunebench.budget.counts import PruneRatio
from prunebench.config.arguments import validated
from prunebench.core.context import Extracted, Run
from prunebench.criteria.snr import lowest, signal_to_noise
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.methods.bases.gaussian_nets import gaussian_layers
from prunebench.methods.bases.variational import VariationalMethod

log = logging.getLogger("prunebench")
DEAD = -1.0e4
"""Value of ``spread`` that makes a standard deviation exactly 0 under softplus and exp."""


@validated
class NoisiestWeights(VariationalMethod):
    """After training the share ``prune_ratio`` of all weights with the lowest |mean| / std is 0, in mean and deviation.

    Blundell et al. 2015, sec. 5.1.3: without training afterwards; biases stay.

    Args:
        prune_ratio: share of the weights that goes, in [0, 1).
        scope: "global" = one ranking through all layers, "layer" = one for each.
        **common: the arguments of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(self, *, prune_ratio: PruneRatio, scope: Scope, **common: Any) -> None:
        super().__init__(**common)
        self.prune_ratio, self.scope = float(prune_ratio), scope

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if self.prune_ratio:
            run.measure("before_cut", net)
        net = copy.deepcopy(net)
        layers = gaussian_layers(net)
        dead = self._noisiest(layers)
        for name, layer in layers.items():
            layer.weight[dead[name]] = 0
            layer.spread[dead[name]] = DEAD
        shares = {name: float(mask.float().mean()) for name, mask in dead.items()}
        log.info("dead weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        total, num_dead = sum(m.numel() for m in dead.values()), sum(int(m.sum()) for m in dead.values())
        achieved = {"weights": total, "weights_live": total - num_dead, "sparsity_per_layer": shares}
        reason = "all its weights have a higher signal-to-noise ratio" if self.prune_ratio else "prune_ratio is 0"
        whole = [{"layer": name, "reason": reason} for name, share in shares.items() if not share]
        return self.cut_unread(net, run, whole=whole, achieved=achieved)

    def _noisiest(self, layers: Mapping[str, GaussianWeights]) -> dict[str, Tensor]:
        """Which weights go: the first floor(ratio * n) of the ranking; of equal ones those of lower index."""
        ratios = {name: signal_to_noise(*layer.posterior()).flatten() for name, layer in layers.items()}
        if self.scope == "layer":
            flat = [lowest(ratio, int(self.prune_ratio * len(ratio))) for ratio in ratios.values()]
        else:
            ratio = torch.cat([*ratios.values()])
            flat = list(lowest(ratio, int(self.prune_ratio * len(ratio))).split([len(r) for r in ratios.values()]))
        masks = zip(layers.items(), flat, strict=True)
        return {name: mask.view_as(layer.weight) for (name, layer), mask in masks}
