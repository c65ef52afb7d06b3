"""The end of a run with a Gaussian for every weight: those with the lowest signal-to-noise ratio go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget.amounts import Scope
from prunebench.budget.counts import PruneRatio, prune_floor
from prunebench.config.arguments import validated
from prunebench.core.context import Extracted, Run
from prunebench.criteria.snr import live_weights, signal_to_noise
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.methods.bases.gaussian_nets import gaussian_layers, removed, silenced
from prunebench.methods.bases.variational import VariationalMethod


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
        dead = self._noisiest(gaussian_layers(net))
        reason = "all its weights have a higher signal-to-noise ratio" if self.prune_ratio else "prune_ratio is 0"
        whole, achieved = removed(dead, why_whole=reason)
        return self.cut_unread(silenced(net, dead), run, whole=whole, achieved=achieved)

    def _noisiest(self, layers: Mapping[str, GaussianWeights]) -> dict[str, Tensor]:
        """Which weights go: the first floor(ratio * n) of the ranking; of equal ones those of lower index."""
        ratios = {name: signal_to_noise(*layer.posterior()) for name, layer in layers.items()}
        counts = {name: prune_floor(ratio.numel(), self.prune_ratio) for name, ratio in ratios.items()}
        total = sum(ratio.numel() for ratio in ratios.values())
        live = live_weights(ratios, counts if self.scope == "layer" else prune_floor(total, self.prune_ratio))
        return {name: ~mask for name, mask in live.items()}
