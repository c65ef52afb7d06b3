"""Input channels of layers: whose they are, how they go, and how many of each layer stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from prunebench.budget import amounts, counted, ratio_table
from prunebench.budget.allotments import Counts, by_ratio, by_table
from prunebench.budget.counts import COUNTS, CountName, Floor, PruneRatio, step_ratio
from prunebench.budget.meet import meet
from prunebench.budget.ranked import Unit
from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.core.method import match_layers
from prunebench.errors import UserError
from prunebench.methods.bases.channels import PROJECTIONS
from prunebench.methods.bases.reconstruction import Reader
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_scales import features
from prunebench.surgery.plan import Indices, Plan
from prunebench.surgery.steps import Source, Through


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The input channels of one layer.

    Attributes:
        reader: the layer.
        writer: the layer whose filters go with them, if it writes for this reader alone; None: the channels are a
            stream's, which keeps them, and the reader selects.
    """

    reader: Reader
    writer: str | None

    @property
    def name(self) -> str:
        """Of the reading layer."""
        return self.reader.name

    def cut(self, plan: Plan, kept: Indices) -> Plan:
        """``plan`` with ``kept`` as the only channels that are read."""
        if self.writer is not None:
            return Plan(keep={**plan.keep, self.writer: kept}, inputs=plan.inputs)
        selected = features(kept, self.reader.span)
        return Plan(keep=plan.keep, inputs={**plan.inputs, self.name: selected})

    def kept(self, plan: Plan) -> Indices:
        """The channels that ``plan`` leaves."""
        whole = tuple(range(self.reader.width))
        if self.writer is not None:
            return plan.keep.get(self.writer, whole)
        selected = plan.inputs.get(self.name)
        span = self.reader.span
        return whole if selected is None else tuple(dict.fromkeys(feature // span for feature in selected))


def inputs_of(
    graph: ChannelGraph, layers: Sequence[str] | None, skip: Sequence[str] | None, *, select: bool
) -> tuple[dict[str, Inputs], dict[str, str]]:
    """The layers whose inputs can go, in the order of execution, and the others with the reason.

    Args:
        layers: names and globs of reading layers; None = all convolutions.
        skip: of those that keep their inputs; None = projection shortcuts.
        select: also those that read a stream, by selection.

    Raises:
        UserError: a pattern matches nothing, or no layer is left.
    """
    convs = [name for name, layer in graph.layers.items() if layer.kind in ("conv", "grouped")]
    wanted = convs if layers is None else match_layers(layers, graph.layers, what="method.layers")
    skipped = [name for name in graph.layers if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)]
    if skip is not None:
        skipped = match_layers(skip, graph.layers, what="method.skip")
    found: dict[str, Inputs] = {}
    refused: dict[str, str] = {}
    for name in wanted:
        reason = "it is to stay whole" if name in skipped else None
        entry = reason or _inputs(graph, name, select=select)
        if isinstance(entry, str):
            refused[name] = entry
        else:
            found[name] = entry
    if not found:
        name, reason = next(iter(refused.items()), ("the net", "it has no convolutions"))
        raise UserError(f"no layer of this net can lose input channels, for example {name}: {reason}")
    return found, refused


def _inputs(graph: ChannelGraph, name: str, *, select: bool) -> Inputs | str:
    """The inputs of the layer ``name``, or why they stay."""
    reader = Reader.of(graph, name)
    if reader is None:
        return graph.why_not(name) or "it is no 2-d convolution or linear layer whose input channels can be told"
    step = graph.steps[reader.source]
    while isinstance(step, Through):
        step = graph.steps[step.inputs[0]]
    if isinstance(step, Source):
        return "it reads the net's input"
    for layer in graph.layers.values():
        if layer.readers == (name,) and not layer.meets_addition and graph.why_not(layer.name) is None:
            return Inputs(reader=reader, writer=layer.name)
    if not select:
        return "other layers read its input channels too (method.select_inputs=false)"
    return Inputs(reader=reader, writer=None)


@validated
@dataclass(frozen=True, kw_only=True)
class Shares:
    """How many input channels of each layer go.

    Attributes:
        prune_ratio: share of each layer's, in [0, 1), or a table reading layer or glob -> share; a target replaces it.
        target_macs, target_params: share of the dense net that stays, in (0, 1].
        count: how a ratio becomes a number, see :func:`prunebench.budget.choose`.
        min_channels: so many stay, at least 1.
        round_to: the number kept is rounded up to a multiple of it.

    Raises:
        UserError: a value out of its range, neither ratio nor target, or both targets.
    """

    prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None
    target_macs: amounts.TargetShare | None = None
    target_params: amounts.TargetShare | None = None
    count: CountName = "keep_floor"
    min_channels: PositiveInt = 1
    round_to: PositiveInt = 1

    def __post_init__(self) -> None:
        targets = {"target_macs": self.target_macs, "target_params": self.target_params}
        ratio = None if self._has_target else self.prune_ratio
        amounts.check_amount(prune_ratio=ratio, targets=targets, scope="layer")

    @property
    def _has_target(self) -> bool:
        return self.target_macs is not None or self.target_params is not None

    def numbers(
        self, inputs: Mapping[str, Inputs], graph: ChannelGraph, before: Plan, fraction: float
    ) -> dict[str, int]:
        """Reading layer -> number of input channels that stay, of those that lose some.

        Args:
            before: what is cut already; it stays cut.
            fraction: of an iterative schedule, see :func:`prunebench.budget.choose`.

        Raises:
            UserError: a target is out of reach, or a pattern matches no layer.
        """
        floor = Floor(min_channels=self.min_channels, round_to=self.round_to)
        units = [_unit(entry, before, floor) for entry in inputs.values()]

        def plan_of(counts: Counts) -> Plan:
            plan = before
            for entry, unit, number in zip(inputs.values(), units, counts, strict=True):
                plan = entry.cut(plan, unit.keep(number)) if number else plan
            return plan

        family = by_ratio(units, COUNTS[self.count])
        if self._has_target:
            what = "params" if self.target_macs is None else "macs"
            size, whole = (graph.macs, graph.dense_macs) if what == "macs" else (graph.params, graph.dense_params)
            goal = self.target_params if self.target_macs is None else self.target_macs
            assert goal is not None
            counts = meet(units, family, lambda found: size(plan_of(found)) / whole, goal**fraction, what=what)
        elif isinstance(self.prune_ratio, Mapping):
            table = ratio_table(self.prune_ratio, inputs)
            counts = by_table(units, table, COUNTS[self.count], fraction)
        else:
            assert self.prune_ratio is not None  # checked above
            counts = family(step_ratio(self.prune_ratio, fraction))
        return {name: unit.size - n for name, unit, n in zip(inputs, units, counts, strict=True) if n}

    def describe(
        self, plan: Plan, inputs: Mapping[str, Inputs], graph: ChannelGraph, fraction: float
    ) -> dict[str, Any]:
        """What ``plan`` achieves, see :attr:`prunebench.budget.Choice.achieved`."""
        widths = {name: entry.reader.width for name, entry in inputs.items()}
        total = sum(widths.values())
        kept = sum(len(entry.kept(plan)) for entry in inputs.values())
        asked = None
        if not self._has_target:
            ratios = self.prune_ratio if isinstance(self.prune_ratio, Mapping) else {"*": self.prune_ratio or 0.0}
            table = ratio_table(ratios, widths)
            gone = sum(width * step_ratio(table.get(name, 0.0), fraction) for name, width in widths.items())
            asked = 1 - gone / total
        of = None if not self._has_target else "params" if self.target_macs is None else "macs"
        goal = self.target_params if self.target_macs is None else self.target_macs
        achieved = {"channels_kept": kept / total, "channels_asked": asked, "target": goal, "target_of": of}
        sizes = {"macs": graph.macs(plan) / graph.dense_macs, "params": graph.params(plan) / graph.dense_params}
        return counted(achieved, **sizes)


def _unit(entry: Inputs, before: Plan, floor: Floor) -> Unit:
    kept = entry.kept(before)
    dead = sorted(set(range(entry.reader.width)).difference(kept))
    return Unit((entry.name,), (*dead, *kept), tuple(range(entry.reader.width)), len(dead), floor)
