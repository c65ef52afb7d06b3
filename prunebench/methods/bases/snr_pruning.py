"""A Gaussian over the weights of a net: taken from a finished run, and cut by its signal-to-noise ratio."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget.amounts import Coupling, Scope
from prunebench.budget.counts import PruneRatio, prune_floor
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among
from prunebench.core.context import Extracted, Run
from prunebench.core.method import match_layers
from prunebench.criteria.snr import filter_signal_to_noise, live_weights, signal_to_noise
from prunebench.errors import UserError
from prunebench.layers.iterates import IterateGaussian
from prunebench.layers.vectors import split, to_vector, trainable, write_vector
from prunebench.methods.bases.stored_states import OPTION, load_fitting, phase_states
from prunebench.surgery.shrink import shrink

log = logging.getLogger("prunebench")
Score = Annotated[str, Among(("snr", "magnitude"))]
PrunedUnit = Annotated[str, Among(("weight", "channel"))]


@validated
@dataclass(frozen=True, kw_only=True)
class SnrPruning:
    """Take the weights or filters of smallest ``|mean| / std`` out of a Gaussian, so that every draw has them at 0.

    Attributes:
        prune_ratio: share of the weights (of the channels of each layer) that goes, in [0, 1).
        score: "snr", or "magnitude" of the mean as a control.
        unit: "weight" or "channel".
        scope: for weights: rank them over all layers ("global") or in each ("layer").
        coupling: for channels, see :func:`prunebench.budget.choose`.
        layers: names and globs of the layers that are pruned; only convolutions and linear layers can be.

    Raises:
        UserError: an option outside its values.
    """

    prune_ratio: PruneRatio
    score: Score
    unit: PrunedUnit
    scope: Scope
    coupling: Coupling
    layers: Sequence[str]

    def chosen(self, run: Run) -> list[str]:
        """The layers to prune; by channels only those whose outputs are read by others.

        Raises:
            UserError: a pattern matches no layer.
        """
        fit = [
            name
            for name, layer in run.graph.layers.items()
            if self.unit == "weight" or (layer.kind != "depthwise" and not layer.is_output)
        ]
        return match_layers(self.layers, fit, what="method.layers")

    def cut_weights(self, net: nn.Module, gaussian: IterateGaussian, std: Tensor, run: Run) -> Extracted:
        """Take single weights out of ``gaussian``.

        Args:
            net: gives names and shapes, and is returned as it is. ``std``: of its d weights, ``[d]``.
        """
        ranked = split(net, gaussian.mean.abs() if self.score == "magnitude" else signal_to_noise(gaussian.mean, std))
        scores = {name: ranked[f"{name}.weight"] for name in self.chosen(run)}
        counts = {name: prune_floor(score.numel(), self.prune_ratio) for name, score in scores.items()}
        total = sum(score.numel() for score in scores.values())
        masks = live_weights(scores, counts if self.scope == "layer" else prune_floor(total, self.prune_ratio))
        live = torch.ones_like(gaussian.live)
        for name, mask in masks.items():
            split(net, live)[f"{name}.weight"].copy_(mask)  # a view of it
        gaussian.prune(live)
        kept = {name: float(mask.double().mean()) for name, mask in masks.items()}
        log.info("kept weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in kept.items()))
        reason = "all its weights rank above the threshold"
        return Extracted(
            net=net,
            not_pruned=[{"layer": name, "reason": reason} for name, share in kept.items() if share == 1.0],
            achieved={"weights_kept": sum(int(mask.sum()) for mask in masks.values()) / total},
        )

    def cut_channels(
        self, net: nn.Module, gaussian: IterateGaussian, std: Tensor, run: Run
    ) -> tuple[Extracted, IterateGaussian]:
        """Remove filters.

        Args:
            net: with the mean as its weights, dense shapes. ``std``: of its d weights, ``[d]``.

        Returns:
            The small net, and the Gaussian of its weights.
        """
        mean, spread = split(net, gaussian.mean), split(net, std)
        scores = {}
        for name in self.chosen(run):
            by_outputs = run.graph.layers[name].by_outputs
            weight, noise = by_outputs(mean[f"{name}.weight"]), by_outputs(spread[f"{name}.weight"])
            noise = torch.ones_like(weight) if self.score == "magnitude" else noise
            scores[name] = filter_signal_to_noise(weight, noise)
        choice = run.choose(
            lambda: budget.choose(scores, run.graph, prune_ratio=self.prune_ratio, coupling=self.coupling)
        )
        # where each weight of the small net comes from: cut a net that holds the numbers of its weights
        numbered = copy.deepcopy(net).double()
        write_vector(numbered, torch.arange(1, len(gaussian.mean) + 1))
        index = to_vector(shrink(numbered, run.graph, choice.plan)).long() - 1
        return run.cut(net, choice), gaussian.select(index)


def read_iterates(folder: str, net: nn.Module) -> IterateGaussian:
    """The Gaussian that a finished run collected for a net with the parameters of ``net``, before any cut.

    Raises:
        UserError: no finished run, one that collected nothing, or one of another net.
    """
    for state in phase_states(folder):
        if (found := collected(state, net)) is not None:
            return found
    raise UserError(f"{OPTION}={folder} is a run that collected no weights; give one with method=swag")


def collected(state: Mapping[str, Tensor], net: nn.Module) -> IterateGaussian | None:
    """The Gaussian in the stored ``state`` of a phase; None if there is none.

    Raises:
        UserError: it is one of another net than ``net``, or damaged.
    """
    prefix = f"{OPTION}."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not own:
        return None
    size = 0
    for name, parameter in trainable(net):
        if (found := state.get(f"net.{name}")) is None or found.shape != parameter.shape:
            raise UserError(f"{OPTION} is a run of another net: '{name}' is missing or differs")
        size += parameter.numel()
    deviations = own.get("deviations")
    made = IterateGaussian(size=size, rank=len(deviations) if deviations is not None and deviations.dim() else 0)
    load_fitting(made, own)
    return made
