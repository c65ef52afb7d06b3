"""One line of a paper's table, and the paper that it is from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunebench.rows.fields import Value


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table, or one of its columns (an arm: fine-tuned, from scratch, …).

    All text is data from outside: escape it before it is shown.

    Attributes:
        paper: name of the rows file. ``id``: unique in it. ``arm``: None for the line itself.
        dataset, model: our names where we have them; None or several where the paper says no more.
        kind: ``own``, ``baseline`` or ``quoted``, see :data:`fields.KINDS`.
        reported: published values in units of :data:`fields.FIELDS`.
        printed: cells that follow from others (drops, shares), kept only to check the paper.
        misprints: cells that contradict others of the tables -> how; each is checked to do so.
        recomputed: what the published configuration gives, counted by the authors of the specification.
        dense: published values of the row's dense net, where another row states them.
        overrides: dotted key -> value of the configuration that runs it; None if it cannot run.
        pending: why it does not run; None if it does.
        convention: what a published count is, see :data:`conventions.CONVENTIONS`.
        tolerance: of accuracies, a fraction.
        deviations: what the paper says, what the official code does, what we do.
        measured: which of our numbers stands beside a published metric, as ``before_cut.accuracy``, where it is not the
            metric of ``final``.
        macs_note: why our count differs from the published one by more than 1 %.
        same_as: name of the row that a quoted one was taken from.
        selection: how the paper chose the net, see :data:`fields.SELECTIONS`; None = nothing is known against it.
    """

    paper: str
    id: str
    table: str
    kind: str
    convention: str
    tolerance: float
    source: str
    arm: str | None = None
    dataset: str | tuple[str, ...] | None = None
    model: str | tuple[str, ...] | None = None
    setting: str = ""
    reported: Mapping[str, Value] = field(default_factory=dict)
    printed: Mapping[str, Value] = field(default_factory=dict)
    misprints: Mapping[str, str] = field(default_factory=dict)
    recomputed: Mapping[str, Value] = field(default_factory=dict)
    dense: Mapping[str, Value] = field(default_factory=dict)
    at: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] | None = None
    pending: str | None = None
    confidence: str | None = None
    url: str | None = None
    file: str | None = None
    config: str | None = None
    verified: str | None = None
    digitised: bool = False
    note: str | None = None
    deviations: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    macs_note: str | None = None
    baseline: str | None = None
    same_as: str | None = None
    selection: str | None = None
    arms: tuple[Row, ...] = ()

    @property
    def name(self) -> str:
        """``<paper>-<id>`` or ``<paper>-<id>-<arm>``: the option ``experiment=``."""
        return "-".join([self.paper, self.id, *([self.arm] if self.arm else [])])

    @property
    def parts(self) -> tuple[Row, ...]:
        """What a run can reproduce: the arms, or the row itself."""
        return self.arms or (self,)

    @property
    def status(self) -> str:
        """``runnable``, ``pending`` or ``quoted``; a row with arms runs if one of them does."""
        if self.kind == "quoted":
            return "quoted"
        return "runnable" if any(part.overrides is not None for part in self.parts) else "pending"

    @property
    def mark(self) -> str:
        """Provenance in a few words, to be shown beside each of its values."""
        extra = [f"{self.confidence} confidence"] if self.confidence else []
        return ", ".join([self.source, *extra, *(["digitised"] if self.digitised else [])])

    def value(self, name: str) -> float | None:
        """A published value, or what follows from published ones; the mean where there is one for each seed."""
        found = self.reported.get(name)
        if found is None and name.startswith("dense_"):
            found = self.dense.get(name.removeprefix("dense_"), self.dense.get(name))
        if found is not None:
            return statistics.fmean(found) if isinstance(found, tuple) else float(found)
        match name:
            case "accuracy_drop" | "top5_drop":
                return _difference(self.value("dense_" + name[:-5]), self.value(name[:-5]))
            case "macs_removed":
                kept = self.value("macs_kept")
                for size in ("macs", "flops"):
                    kept = _ratio(self.value(size), self.value(f"dense_{size}")) if kept is None else kept
                return None if kept is None else 1 - kept
            case "params_removed":
                kept = _ratio(self.value("params"), self.value("dense_params"))
                return None if kept is None else 1 - kept
            case "latency_removed":
                kept = _ratio(self.value("latency_ms"), self.value("dense_latency_ms"))
                return None if kept is None else 1 - kept
            case "compression":
                return _ratio(self.value("dense_params"), self.value("params"))
            case _:
                return None


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A rows file: whose numbers they are, and the rows."""

    name: str
    title: str
    authors: str
    venue: str
    arxiv: str | None
    code: str | None
    convention: str
    tolerance: float
    deviations: Mapping[str, str]
    rows: tuple[Row, ...]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
