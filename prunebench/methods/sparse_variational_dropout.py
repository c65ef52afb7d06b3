"""Sparse variational dropout: every weight learns its own dropout rate, and goes when the rate is high."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Range
from prunebench.core.context import Extracted, Run
from prunebench.layers import kl
from prunebench.methods.bases.gaussian_nets import gaussian_layers, sparsity, to_gaussian
from prunebench.methods.bases.variational import VariationalMethod

log = logging.getLogger("prunebench")


@validated
class SparseVariationalDropout(VariationalMethod):
    """Learn N(w, s^2) for each weight under a log-uniform prior; weights with log alpha >= threshold are removed.

    Molchanov, Ashukha, Vetrov 2017. The noise is additive: the parameters are w and ln s^2, and ln alpha = ln s^2 -
    ln w^2, clamped to +-8, so that the gradient of w is free of the noise (sec. 4.1). The KL is their eq. 14. Biases
    and norm layers stay as they are. From a trained net: ``model.pretrained`` or schedule=simultaneous_pretrained.

    Where the paper leaves a choice, this is the official code's: the KL weight is 0 for 5 epochs and rises for 15
    (nets/optpolicy.py:35-40); while training a clipped weight keeps its noise in a linear layer and loses it in a
    convolution (nets/layers.py:88, 141). Not the code's: ln(w^2 + 1e-8) everywhere (there the linear layer divides by
    w^2 alone), and means start as the model draws them, not from N(0, 0.01^2).

    Dead weights become zeros. Units and filters that do nothing any more are removed: those that nobody reads, and
    those whose own weights are all dead, whose constant moves into the biases behind them; the output is the same.

    Args:
        log_sigma2: initial ln s^2 of each weight; must be well below ln w^2.
        threshold: on log alpha; 3 is a dropout rate of 0.95.
        train_clip: dead weights are 0 while training too (on for the paper's LeNets, off for its VGGs).
        **common: the arguments of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        log_sigma2: Annotated[float, Range(low=-100)],
        threshold: Annotated[float, Range(low=-8)],
        train_clip: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.log_sigma2, self.threshold = float(log_sigma2), float(threshold)
        self.train_clip = train_clip

    def swap(self, net: nn.Module) -> nn.Module:
        return to_gaussian(
            net,
            self.names,
            scale="log_variance",
            initial=self.log_sigma2,
            threshold=self.threshold,
            train_clip=self.train_clip,
        )

    def divergence(self, net: nn.Module) -> Tensor:
        terms = [kl.log_uniform(layer.log_alpha()).sum() for layer in gaussian_layers(net).values()]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        dead = sparsity(net).values()
        kept = 1 - sum(int(mask.sum()) for mask in dead) / sum(mask.numel() for mask in dead)
        return {**super().report(net), "weights_kept": kept}

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        dead = sparsity(net)
        shares = {name: float(mask.float().mean()) for name, mask in dead.items()}
        total, kept = sum(mask.numel() for mask in dead.values()), sum(int((~mask).sum()) for mask in dead.values())
        log.info("dead weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        whole = [
            {"layer": name, "reason": "no weight's log alpha has reached the threshold"}
            for name, share in shares.items()
            if not share
        ]
        achieved = {
            "weights": total,
            "weights_live": kept,
            "compression": total / max(1, kept),
            "sparsity_per_layer": shares,
        }
        return self.cut_unread(net, run, whole=whole, achieved=achieved)
