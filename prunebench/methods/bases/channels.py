"""Choosing channels: which layers give some, how many, and the cut. What every structured method has in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice, amounts
from prunebench.budget.by_cost import Timing
from prunebench.budget.counts import CountName, Floor, PruneRatio
from prunebench.budget.ranked import Unit
from prunebench.budget.units import check_scores, make_units
from prunebench.budget.words import in_words
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Fraction, NonNegativeInt, PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.errors import UserError
from prunebench.measure.latency import ENGINES, ONNXRUNTIME, TORCH
from prunebench.nets.package import read_plan
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
PROJECTIONS = ("*downsample*", "*shortcut*")  # 1x1 convolutions on shortcuts, which no paper here prunes on their own


@validated
class ChannelMethod(Method):
    """Score the channels of each layer and remove the lowest at each cut. A method of this kind gives ``scores``.

    Args:
        prune_ratio: share of the channels of each layer that goes, or a table name or glob -> share; a target or
            ``like`` replaces it.
        target_macs: share of the dense net's MACs that stays; null = ``prune_ratio`` decides.
        target_params: the same for parameters.
        like: folder of a run: each layer loses as many channels as there (for random controls).
        layers: "all" convolutions (in a net without any that can lose channels: all hidden linear layers), "interior"
            (those of them whose output meets no addition), or names and globs.
        skip: names and globs of layers that stay whole; null = projection shortcuts with ``coupling=free``, none
            with ``aligned``.
        scope, coupling, count, min_channels, protect, round_to: see :func:`prunebench.budget.choose`.
        normalise: see there; null = with ``scope=global``, where one threshold meets layers of different widths and
            sizes of weights, "mean", or with ``coupling=free`` what the criterion says (norms and distances of filters:
            "ranks"), else "none".
        free_channels: behind the ratio, keep those channels too without which the net is no faster here, so that no
            accuracy is given away for nothing. ``engine``, ``batch``: program and batch size of that time.
        schedules: the schedules that make sense for this configuration; null = all.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None,
        target_macs: amounts.TargetShare | None = None,
        target_params: amounts.TargetShare | None = None,
        like: str | None = None,
        layers: Annotated[str, Among(("all", "interior"))] | Sequence[str] = "all",
        skip: Sequence[str] | None = None,
        scope: amounts.Scope = "layer",
        coupling: amounts.Coupling = "free",
        count: CountName = "prune_floor",
        normalise: amounts.Normalisation | None = None,
        min_channels: NonNegativeInt = 1,
        protect: Fraction = 0.0,
        round_to: PositiveInt = 1,
        free_channels: bool = False,
        engine: Annotated[str, Among(ENGINES)] = ONNXRUNTIME,
        batch: PositiveInt = 64,
        schedules: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if schedules is not None:
            self.schedules = frozenset(schedules)
        if like is not None and (target_macs is not None or target_params is not None):
            raise UserError(
                "method.like takes the counts of another run; set method.target_macs and method.target_params to null"
            )
        if free_channels and (like is not None or target_macs is not None or target_params is not None):
            raise UserError(
                "method.free_channels keeps more channels than asked for, but method.like, target_macs and "
                "target_params say how many stay; give method.prune_ratio with it, or method.target_latency, which "
                "keeps them anyway"
            )
        self.free_channels, self.engine, self.batch = free_channels, engine, batch
        self.widths_come_later = False  # a method says so whose widths a threshold, a clock or the data decide
        self.prune_ratio = prune_ratio
        self.targets: dict[str, float | None] = {"target_macs": target_macs, "target_params": target_params}
        self.like = like
        self.layers = layers
        self.skip = skip
        self.options: dict[str, Any] = {
            "scope": scope,
            "coupling": coupling,
            "count": count,
            "normalise": normalise or ("mean" if scope == "global" else "none"),
            "min_channels": min_channels,
            "protect": protect,
            "round_to": round_to,
        }

    # -- what a method adds

    def scores(self, net: nn.Module, run: Run) -> Mapping[str, Tensor]:
        """Layer -> a score for each of its channels, ``[out]``; low scores go first.

        Args:
            net: with the dense net's shapes; channels of earlier cuts are 0.
        """
        raise NotImplementedError

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        """Why a layer has no score; None if it has one."""
        return None

    # -- hooks

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        graph = run.graph
        if self.free_channels:
            self.prepare_timing(run)
        if self.like is not None:
            graph.check(_plan_of(self.like))
        if graph.unread:
            log.warning("the forward pass never reads %s; they stay, and count on both sides", ", ".join(graph.unread))
        # all options, patterns and targets, and the cut itself, are tried on made-up scores
        draws = torch.Generator().manual_seed(0)
        scores = {name: torch.rand(graph.layers[name].out_channels, generator=draws) for name in self.scored(graph)[0]}
        choice = self.choose(scores, graph)
        run.rehearse(net, choice)
        keep = choice.plan.keep
        widths = {name: layer.out_channels for name, layer in graph.layers.items() if name in keep}
        counts = in_words((name, len(keep[name]), width) for name, width in widths.items())
        if self.options["scope"] == "global" or self.widths_come_later:
            log.info("layers to prune: %s", ", ".join(scores) or "none")
        else:
            log.info("layers to prune, kept/all: %s", counts or "none")
        if self.layers == "interior" and (left := sum(layer.meets_addition for layer in graph.layers.values())):
            log.info("%d layers meet additions and stay whole (method.layers=interior)", left)
        self.options["measured"] = True  # from now on, and not for the made-up scores

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        return run.cut(net, run.choose(lambda: self.rank(net, run)))

    # -- helpers

    def prepare_timing(self, run: Run) -> Timing:
        """The clock by which channels are chosen from now on; the choice that comes first is not measured.

        Raises:
            UserError: there is no cut at which the net could be timed, or the engine cannot run it.
        """
        if run.schedule == "simultaneous":
            raise UserError(
                "method.target_latency, target_ms and free_channels time the net at its cut, and schedule=simultaneous "
                "has none: it would choose other widths after each epoch; use finetune, iterative or oneshot, or give "
                "method.target_macs"
            )
        timing = run.timing(self.engine, self.batch)
        try:
            log.info("dense net: %.3g ms in %s, batch %d", 1e3 * timing.dense_cost, self.engine, self.batch)
        except UserError as error:
            if self.engine == TORCH:
                raise
            raise UserError(f"{error}; method.engine={TORCH} goes by the times in {TORCH} instead") from error
        self.options |= {"timing": timing, "measured": False, "free_channels": self.free_channels}
        return timing

    def rank(self, net: nn.Module, run: Run) -> Choice:
        """Score the layers of ``net`` and choose, for the cut in progress."""
        return self.choose(self.scores(net, run), run.graph, fraction=run.fraction, within=run.plan)

    def scored(self, graph: ChannelGraph) -> tuple[list[str], list[dict[str, str]]]:
        """The layers to prune that have scores, and the others with the reason.

        Raises:
            UserError: none has.
        """
        skipped = self._skipped(graph)
        reasons = {name: self.refuses(name, graph) for name in self._selected(graph) if name not in skipped}
        if reasons and all(reasons.values()):
            name, reason = next(iter(reasons.items()))
            raise UserError(f"the criterion can score none of the layers to prune, for example {name}: {reason}")
        refused = [{"layer": name, "reason": reason} for name, reason in reasons.items() if reason is not None]
        return [name for name, reason in reasons.items() if reason is None], refused

    def units(self, net: nn.Module, run: Run) -> list[Unit]:
        """What shares a keep-set, each with its channels in the order in which they go."""
        options = self.options
        floor = Floor(**{name: options[name] for name in ("min_channels", "protect", "round_to")})
        scores = check_scores(self.scores(net, run), run.graph)
        coupled = {
            "coupling": options["coupling"],
            "normalise": options["normalise"],
            "fixed": self._skipped(run.graph),
        }
        even = options["scope"] == "layer"
        return make_units(scores, run.graph, **coupled, before=run.plan, floor=floor, even=even)[0]

    def choose(
        self, scores: Mapping[str, Tensor], graph: ChannelGraph, *, fraction: float = 1.0, within: Plan | None = None
    ) -> Choice:
        """The plan of the channels that stay, by the method's options.

        Args:
            fraction, within: see :func:`prunebench.budget.choose`.
        """
        amounts: dict[str, Any] = {**self.targets, "prune_ratio": self.prune_ratio}
        if self.like is not None:
            kept = _plan_of(self.like).keep
            amounts["prune_ratio"] = {name: 1 - len(kept[name]) / graph.layers[name].out_channels for name in scores}
        elif any(target is not None for target in self.targets.values()):
            amounts["prune_ratio"] = None
        fixed = self._skipped(graph)
        choice = budget.choose(scores, graph, **amounts, fixed=fixed, fraction=fraction, within=within, **self.options)
        return replace(choice, not_pruned=choice.not_pruned + self.scored(graph)[1])

    def _selected(self, graph: ChannelGraph) -> list[str]:
        if self.like is not None:
            return [name for name in graph.layers if name in _plan_of(self.like).keep]
        if not isinstance(self.layers, str):
            return match_layers(self.layers, graph.layers, what="method.layers")
        hidden = {name: layer for name, layer in graph.layers.items() if not layer.is_output}
        convs = {name: layer for name, layer in hidden.items() if layer.kind in ("conv", "grouped", "transposed")}
        # the convolution of a vision transformer cuts a picture into patches, and an addition needs all that it writes
        if all(name in graph.must_stay([name]) for name in convs):
            convs = {}
        chosen = convs or {name: layer for name, layer in hidden.items() if layer.kind == "linear"}
        return [name for name, layer in chosen.items() if self.layers == "all" or not layer.meets_addition]

    def _skipped(self, graph: ChannelGraph) -> list[str]:
        if self.skip is not None:
            return match_layers(self.skip, graph.layers, what="method.skip")
        if self.options["coupling"] == "aligned":
            return []
        return [name for name in graph.layers if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)]


@cache
def _plan_of(folder: str) -> Plan:
    """The plan of the net that a run has saved."""
    try:
        return read_plan(folder)
    except UserError as error:
        raise UserError(f"method.like={folder}: {error}") from None
