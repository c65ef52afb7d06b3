"""Tables over all runs: configurations with their seeds, single runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from prunebench.measure.metrics import ACCURACY, METRICS, NOTHING, Metric
from prunebench.report.configurations import Group
from prunebench.report.numbers import metrics_of
from prunebench.report.tables import Cell, Column, Table, mean, millions, over_seeds, points, text
from prunebench.report.values import grown

_SEEDS_NOTE = (
    "Mean ± sample standard deviation (n − 1) over seeds, never the best seed; "
    "the page has the 95 % t intervals of the means"
)
_AUROC_NOTE = (
    "AUROC: how well the entropy of the predictions tells wrong from right ones (error), and foreign pictures from "
    "those of the test set (OOD); 0.5 is chance"
)
_WEIGHTS_NOTE = (
    "Weights: removed = the net is smaller by them; masked = they are zero but still there, so that nothing is smaller "
    "or faster"
)
_UNITS_NOTE = "MACs are multiply-accumulates for one sample, counted on the net that is left; accuracy on the test set"
_Column = tuple[Column, Callable[[Group], Cell]]
"""A column of the table of configurations, and what stands in it."""


def order(groups: Iterable[Group]) -> list[Group]:
    """By data set, model, schedule, method, then from little to much removed."""
    return sorted(
        groups,
        key=lambda g: (
            *(g.first.dataset, g.first.model, g.first.schedule, g.first.method),
            g.first.numbers.get("macs_removed", 0.0),
            g.id,
        ),
    )


def configurations(groups: Sequence[Group]) -> Table:
    """One line per configuration, mean over its seeds."""
    wanted: list[_Column] = [
        (Column("Data set"), lambda g: text(g.first.dataset)),
        (Column("Model"), lambda g: text(g.first.model)),
        (Column("Method"), lambda g: text(g.first.method)),
        (Column("Setting"), lambda g: text(g.label)),
        (Column("Schedule"), lambda g: text(g.first.schedule)),
        (Column("Row"), lambda g: text(g.first.row)),
        (Column("Seeds", numeric=True), lambda g: Cell(str(len(g.records)), len(g.records), below=g.repeats)),
        (Column("Published", numeric=True), _published),
        *_quality(groups),
        (Column("MACs M", numeric=True, name="macs"), lambda g: millions(g.estimate("final.macs"), "{:.2f}")),
        (
            Column("sd over samples", numeric=True, name="macs_sd_over_samples"),
            lambda g: millions(g.estimate("final.per_sample.sd"), "± {:.2f}"),
        ),
        _whole("macs_removed"),
        (Column("Params M", numeric=True, name="params"), lambda g: millions(g.estimate("final.params"), "{:.3f}")),
        _whole("params_removed"),
        (Column("Weights"), _weights),
        *(_of(METRICS["batch_1_ms"]), _whole("speedup.batch_1")),
        *(_of(METRICS["batch_64_ms"]), _whole("speedup.batch_64")),
        (
            Column("Status"),
            lambda g: Cell("missed target" if g.missed else "complete", chip="warn" if g.missed else "good"),
        ),
    ]
    wanted += [
        (Column("Id", name="id", data=True), lambda g: text(g.id)),
        (Column("Settings", data=True), lambda g: text(json.dumps(g.first.settings))),
    ]
    rows = [[cell(g) for _, cell in wanted] for g in order(groups)]
    return without_empty(
        Table(
            "configurations",
            "All configurations",
            tuple(c for c, _ in wanted),
            rows,
            (
                *(_SEEDS_NOTE, _UNITS_NOTE, _WEIGHTS_NOTE, _AUROC_NOTE),
                *grown((f"{g.first.method} on {g.first.model}", g) for g in order(groups)),
            ),
        )
    )


def _quality(groups: Sequence[Group]) -> list[_Column]:
    """What each final net predicts, and what its method reports of it; the drop is beside the accuracy."""
    numbers = [record.numbers for item in groups for record in item.records]
    found = [_of(metric) for metric in metrics_of(numbers, "summary") if metric.place == "metrics"]
    after = 1 + [column.name for column, _ in found].index(ACCURACY.key)
    drop = Column("Δ dense", numeric=True, name="accuracy_minus_dense")
    return [*found[:after], (drop, lambda g: points(g.drop())), *found[after:]]


def _of(metric: Metric) -> _Column:
    """A column with a metric of the final net."""
    column = Column(metric.column, numeric=True, name=metric.key.replace(".", "_"))
    if metric is ACCURACY:
        return column, _accuracy
    return column, lambda g: over_seeds(metric, g.estimate(f"final.{metric.key}"))


def _whole(key: str) -> _Column:
    """A column with a metric of the whole run."""
    metric = METRICS[key]
    return Column(metric.column, numeric=True, name=key.replace(".", "_")), lambda g: mean(metric, g.estimate(key))


def _accuracy(found: Group) -> Cell:
    cell = over_seeds(ACCURACY, found.estimate(f"final.{ACCURACY.key}"))
    source = "checkpoint" if found.first.checkpoint else "trained"
    return replace(cell, source=source if cell.text != NOTHING else "", run=found.id)


def _published(found: Group) -> Cell:
    """How many of the seeds are in the open store."""
    count = sum(record.published for record in found.records)
    return Cell(str(count), count) if count else Cell()


def _weights(found: Group) -> Cell:
    """Removed or only masked?"""
    gone, masked = found.estimate("params_removed"), found.masked
    words = ["removed"] if gone is not None and gone.mean > 0 else []
    words += [f"masked, {100 * masked:.1f} % zero"] if masked else []
    return Cell(" and ".join(words) or NOTHING, masked or None, chip="warn" if masked else "")


def without_empty(table: Table) -> Table:
    """Without the columns that have no cell at all."""
    used = [i for i in range(len(table.columns)) if any(row[i].text != NOTHING for row in table.rows)]
    rows = [[row[i] for i in used] for row in table.rows]
    return replace(table, columns=tuple(table.columns[i] for i in used), rows=rows)
