"""Remove whole filters by a criterion: at one cut, in steps, or again and again while training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice, amounts
from prunebench.budget.counts import CountName, PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, NonNegativeInt, PositiveInt
from prunebench.core.method import Method, match_layers
from prunebench.criteria.compensation import compensated
from prunebench.criteria.scorers import Criterion, in_order, look_at
from prunebench.errors import UserError
from prunebench.methods.bases.channel_masks import ChannelMasks
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

if TYPE_CHECKING:
    from prunebench.run.job import Job

log = logging.getLogger("prunebench")

PROJECTIONS = ("*downsample*", "*shortcut*")  # 1x1 convolutions on shortcuts, which no paper here prunes on their own


@validated
class ChannelPruning(Method):
    """Score the channels of each layer; zero or remove the lowest.

    In the schedules with a cut the chosen channels are removed there, and nothing else happens in training.

    Under ``simultaneous`` the lowest are zeroed before the first epoch and chosen anew and zeroed at the end of each
    epoch, before validation; after the last one they are removed (SFP, He et al. 2018, algorithm 1; FPGM, He et al.
    2019, algorithm 1). The weights are overwritten, not masked in the forward pass: a zeroed filter receives
    gradient and may come back, unless its batch norm still has the shift 0 of a new net and a ReLU follows: there the
    gradient is 0, so from scratch only the filters in front of additions return. ``grad_mask`` is what FPGM's
    official code does instead (pruning_cifar10.py:313): the gradients of zeroed filters are zeroed too, which
    freezes the first choice.

    Args:
        criterion: the score.
        prune_ratio: share of the channels of each layer that goes, or a table name or glob -> share; a target or
            ``like`` replaces it.
        target_macs: share of the dense net's MACs that stays; null = ``prune_ratio`` decides.
        target_params: the same for parameters.
        like: folder of a run: each layer loses as many channels as there (for random controls).
        layers: "all" convolutions (in a net without any: all hidden linear layers), "interior" (those of them whose
            output meets no addition), or names and globs.
        skip: names and globs of layers that stay whole; null = projection shortcuts with ``coupling=free``, none
            with ``aligned``.
        scope, coupling, count, normalise, min_channels, protect, round_to: see :func:`prunebench.budget.choose`.
        grad_mask: under ``simultaneous``, freeze the first choice.
        mask_norm: under ``simultaneous``, zero scale and shift of the dead channels' norm layers too: with
            ``grad_mask`` from the start, else after the last epoch. Otherwise only validation sees their constants.
        compensate_mean: at a cut, take the removed channels' expected values out of their readers' running means
            (Oh et al. 2022; needs a batch norm that directly follows the layer).
        schedules: the schedules that make sense for this configuration; null = all.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        criterion: Criterion,
        prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None,
        target_macs: amounts.TargetShare | None = None,
        target_params: amounts.TargetShare | None = None,
        like: str | None = None,
        layers: Annotated[str, Among(("all", "interior"))] | Sequence[str] = "all",
        skip: Sequence[str] | None = None,
        scope: amounts.Scope = "layer",
        coupling: amounts.Coupling = "free",
        count: CountName = "prune_floor",
        normalise: amounts.Normalisation = "none",
        min_channels: NonNegativeInt = 1,
        protect: Fraction = 0.0,
        round_to: PositiveInt = 1,
        grad_mask: bool = False,
        mask_norm: bool = True,
        compensate_mean: bool = False,
        schedules: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if schedules is not None:
            self.schedules = frozenset(schedules)
        if criterion.in_order and coupling == "aligned":
            raise UserError("method.criterion.strategy=greedy goes from layer to layer, it needs method.coupling=free")
        if like is not None and (target_macs is not None or target_params is not None):
            raise UserError(
                "method.like takes the counts of another run; set method.target_macs and target_params to null"
            )
        self.criterion = criterion
        self.prune_ratio = prune_ratio
        self.target_macs = target_macs
        self.target_params = target_params
        self.like = like
        self.layers = layers
        self.skip = skip
        self.options: dict[str, Any] = {
            "scope": scope,
            "coupling": coupling,
            "count": budget.mixed_floor(criterion.norm_ratio) if criterion.norm_ratio else count,
            "normalise": normalise,
            "min_channels": min_channels,
            "protect": protect,
            "round_to": round_to,
        }
        self.grad_mask = grad_mask
        self.mask_norm = mask_norm
        self.compensate_mean = compensate_mean
        self.masks: ChannelMasks | None = None

    def check(self, net: nn.Module, job: Job) -> None:
        super().check(net, job)
        if self.compensate_mean and job.schedule == "simultaneous":
            raise UserError("method.compensate_mean acts at a cut; with schedule=simultaneous set it to false")
        graph = job.graph
        if self.like is not None:
            graph.check(_plan_of(self.like))
        # all options, patterns and targets are tried on made-up scores: nothing that is checked depends on the ranking
        scores = {name: torch.arange(graph.layers[name].out_channels) for name in self._scored(graph)[0]}
        keep = self._choose(scores, graph).plan.keep
        counts = [f"{name} {len(kept)}/{graph.layers[name].out_channels}" for name, kept in keep.items()]
        told = list(scores) if self.options["scope"] == "global" else counts  # a threshold decides the numbers later
        log.info("layers to prune: %s", ", ".join(told) or "none")

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        choice = job.choose(lambda: self._rank(net, job.graph, job.seed, fraction=job.fraction, within=job.plan))
        if self.compensate_mean:
            net = compensated(net, job.graph, choice.plan, job.plan)
        return job.cut(net, choice)

    def attach(self, net: nn.Module, job: Job) -> nn.Module:
        if job.schedule == "simultaneous" and self.masks is None:
            assert job.phase is not None
            self.masks = ChannelMasks(job.graph)
            self._graph, self._seed, self._num_epochs = job.graph, job.seed, job.phase.epochs
        return net

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        if self.masks is not None and epoch == 0:
            self._select(net, epoch)

    def before_step(self, net: nn.Module) -> None:
        if self.masks is not None and self.grad_mask:
            self.masks.zero_gradients(net, thorough=self.mask_norm)

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        # with masked gradients the first choice is final: the zeroed filters coincide and stay the lowest
        if self.masks is not None and not self.grad_mask:
            self._select(net, epoch + 1)

    def extract(self, net: nn.Module, job: Job) -> tuple[nn.Module, Plan]:
        if self.masks is None:
            return net, job.plan
        plan = self.masks.plan()
        again = self._rank(net, job.graph, job.seed, within=plan)  # for the reasons: the dead channels go first
        whole = [entry for entry in again.not_pruned if entry["layer"] not in plan.keep]
        target = {"target_macs": self.target_macs, "target_params": self.target_params}
        achieved = budget.describe(plan, self._scored(job.graph)[0], job.graph, **target)
        return job.cut(net, Choice(plan, whole, achieved)), plan

    def _select(self, net: nn.Module, num_epochs_done: int) -> None:
        assert self.masks is not None
        choice = self._rank(net, self._graph, self._seed * 1_000_003 + num_epochs_done)
        self.masks.load_plan(choice.plan)
        last = num_epochs_done == self._num_epochs
        self.masks.zero(net, thorough=self.mask_norm and (self.grad_mask or last))

    def _scored(self, graph: ChannelGraph) -> tuple[list[str], list[dict[str, str]]]:
        """The layers to prune that the criterion can score, and the others with the reason."""
        names = [name for name in self._selected(graph) if name not in self._skipped(graph)]
        refused = {name: self.criterion.refuses(graph.layers[name]) for name in names}
        if names and all(refused.values()):
            name, reason = next(iter(refused.items()))
            raise UserError(f"the criterion can score none of the layers to prune, for example {name}: {reason}")
        scored = [name for name in names if refused[name] is None]
        return scored, [{"layer": name, "reason": reason} for name, reason in refused.items() if reason is not None]

    def _selected(self, graph: ChannelGraph) -> list[str]:
        if self.like is not None:
            return [name for name in graph.layers if name in _plan_of(self.like).keep]
        if not isinstance(self.layers, str):
            return match_layers(self.layers, graph.layers, what="method.layers")
        hidden = {name: layer for name, layer in graph.layers.items() if not layer.is_output}
        convs = {name: layer for name, layer in hidden.items() if layer.kind in ("conv", "grouped")}
        chosen = convs or {name: layer for name, layer in hidden.items() if layer.kind == "linear"}
        return [name for name, layer in chosen.items() if self.layers == "all" or not layer.meets_addition]

    def _skipped(self, graph: ChannelGraph) -> list[str]:
        if self.skip is not None:
            return match_layers(self.skip, graph.layers, what="method.skip")
        if self.options["coupling"] == "aligned":
            return []
        return [name for name in graph.layers if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)]

    def _rank(
        self, net: nn.Module, graph: ChannelGraph, seed: int, *, fraction: float = 1.0, within: Plan | None = None
    ) -> Choice:
        """Score the layers of ``net`` (dense shapes) and choose."""
        names, refused = self._scored(graph)
        draws = torch.Generator().manual_seed(seed)
        scores = {name: self.criterion(look_at(name, net, graph, draws)) for name in names}
        choice = self._choose(scores, graph, fraction=fraction, within=within)
        if self.criterion.in_order:
            choice = replace(choice, plan=in_order(self.criterion, choice.plan, net, graph, within or Plan()))
        return replace(choice, not_pruned=choice.not_pruned + refused)

    def _choose(
        self, scores: Mapping[str, Tensor], graph: ChannelGraph, *, fraction: float = 1.0, within: Plan | None = None
    ) -> Choice:
        ratio: float | Mapping[str, float] | None = self.prune_ratio
        if self.like is not None:
            kept = _plan_of(self.like).keep
            ratio = {name: 1 - len(kept[name]) / graph.layers[name].out_channels for name in scores}
        elif self.target_macs is not None or self.target_params is not None:
            ratio = None
        return budget.choose(
            scores,
            graph,
            prune_ratio=ratio,
            target_macs=self.target_macs,
            target_params=self.target_params,
            fixed=self._skipped(graph),
            fraction=fraction,
            within=within,
            **self.options,
        )


@cache
def _plan_of(folder: str) -> Plan:
    """The plan of the net that a run has saved."""
    path = Path(folder).expanduser() / "model" / "plan.json"
    if not path.exists():
        raise UserError(f"method.like={folder} is no folder of a finished run: it has no model/plan.json")
    return Plan.from_json(path.read_text(encoding="utf-8"))
