"""Our runs joined to the papers' rows: which row has which runs, and how many are reproduced, run or waiting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from prunebench.core.result import read_result
from prunebench.errors import UserError
from prunebench.measure.stages import STAGES
from prunebench.report.configurations import Group
from prunebench.report.paper_table import STATES, Line, paper_table, run_table
from prunebench.report.record import Record
from prunebench.report.tables import Cell, Column, Table
from prunebench.rows import Paper, Row, compare
from prunebench.rows.compare import headline_of
from prunebench.rows.sizes import Own, mean_sizes, own_sizes, published

_RUN = ("reproduced", "run", "changed", "failed")
"""States of rows that have a run."""
_DEVIATIONS = {"paper": "The paper", "official_code": "Its code", "ours": "Here"}


@dataclass(frozen=True)
class View:
    """One paper on the page."""

    paper: Paper
    lines: tuple[Line, ...]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Rows by state."""
        return {state: sum(line.state == state for line in self.lines) for state in STATES}

    @property
    def total(self) -> int:
        """Rows that are not quoted."""
        return len(self.lines) - self.counts["quoted"]

    @property
    def has_runs(self) -> bool:
        """True if a row of it has been run."""
        return any(self.counts[state] for state in _RUN)

    @property
    def bars(self) -> list[dict[str, float]]:
        """Shares of reproduced, run, changed, failed and ready rows in percent, one behind the other."""
        widths = [100 * self.counts[state] / max(1, self.total) for state in (*_RUN, "ready")]
        return [{"x": round(sum(widths[:i]), 2), "width": round(width, 2)} for i, width in enumerate(widths)]

    @property
    def deviations(self) -> list[tuple[str, str]]:
        """Heading and text of what is said to differ from the paper."""
        found = self.paper.deviations
        return [(title, found[key]) for key, title in _DEVIATIONS.items() if key in found]

    @cached_property
    def tables(self) -> list[tuple[Table, list[str]]]:
        """Each table of the paper with the states of its lines."""
        by_title = groupby(
            sorted(self.lines, key=lambda line: self._order[line.row.table]), lambda line: line.row.table
        )
        made: list[tuple[Table, list[str]]] = []
        for title, found in by_title:
            lines = list(found)
            name = f"{self.paper.name}-{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}"
            if any(table.name == name for table, _ in made):
                name += f"-{len(made) + 1}"
            table = paper_table(name, f"{self.paper.name}: {title}", lines)
            made.append((table, [line.state for line in lines]))
        return made

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {title: i for i, title in enumerate(dict.fromkeys(line.row.table for line in self.lines))}


def views(papers: Sequence[Paper], groups: Sequence[Group], failed: Sequence[Record] = ()) -> list[View]:
    """Every paper with our runs beside its rows.

    Args:
        failed: runs without numbers.
    """
    by_row: dict[str, list[Group]] = {}
    for item in groups:
        if item.first.row is not None:
            by_row.setdefault(item.first.row, []).append(item)
    without: dict[str, list[Record]] = {}
    for record in failed:
        if record.row is not None:
            without.setdefault(record.row, []).append(record)
    made = []
    for paper in papers:
        lines = [_line(part, by_row, without) for row in paper.rows for part in row.parts]
        made.append(View(paper, tuple(lines)))
    return made


def totals(found: Sequence[View]) -> Counter[str]:
    """Rows of all papers by state."""
    counts: Counter[str] = Counter()
    for view in found:
        counts.update(view.counts)
    return counts


def overview(found: Sequence[View]) -> Table:
    """One line per paper: its rows by state."""
    columns = [Column("Paper"), Column("Title"), Column("Venue"), Column("Rows", numeric=True)]
    columns += [Column(words, numeric=True) for words, _ in STATES.values()]
    rows = [
        [
            *(Cell(word) for word in (view.paper.name, view.paper.title, view.paper.venue)),
            Cell(str(view.total), view.total),
            *(Cell(str(count), count) for count in view.counts.values()),
        ]
        for view in found
    ]
    return Table("papers", "Papers", tuple(columns), rows, ("Rows: without the quoted ones",))


def rows_run(found: Sequence[View]) -> tuple[Table, list[str]]:
    """All rows that have runs, of all papers, with the values that most of them share; and their states."""
    lines = [line for view in found for line in view.lines if line.state in _RUN]
    return run_table("rows", "Rows of papers that were run", lines), [line.state for line in lines]


def _line(row: Row, by_row: Mapping[str, Sequence[Group]], without: Mapping[str, Sequence[Record]]) -> Line:
    if row.kind == "quoted":
        return Line(row, None, None)
    failed, candidates = tuple(without.get(row.name, ())), by_row.get(row.name, ())
    if not candidates:
        return Line(row, None, None, failed)
    # runs as the row says come before changed and shortened ones; then most seeds, then the newest: never the best
    group = max(candidates, key=lambda g: (not _changed(g), len(g.records), g.first.started, g.id))
    baseline = by_row.get(f"{row.paper}-{row.baseline}", ()) if row.baseline else ()
    dense = _dense(row, [item for item in baseline if not _changed(item)])
    sizes, seeds = _sizes(group, row), len(group.records)
    found = compare(_mean_result(group), row, own_dense=dense, sizes=sizes, num_seeds=seeds)
    return Line(row, group, found, failed)


def _changed(group: Group) -> bool:
    return bool((group.first.expected or {}).get("changed"))


def _dense(row: Row, baseline: Sequence[Group]) -> float | None:
    """What our runs of the row's dense net have reached."""
    dense = baseline[0].estimate(f"final.{headline_of(row).key}") if baseline else None
    return dense.mean if dense else None


def _sizes(group: Group, row: Row) -> Own:
    """Our sizes as the row counts, mean over seeds; the counts of some rows need what only the results have."""
    if not published(row):
        return Own({}, {})
    try:
        return mean_sizes([own_sizes(read_result(record.folder), row, record.folder) for record in group.records])
    except UserError as error:  # a result that was there when the report began
        return Own({}, dict.fromkeys(published(row), str(error)))


def _mean_result(group: Group) -> dict[str, Any]:
    """The means over seeds in the shape of ``result.json``, so that one rule decides for a run and for a row."""
    means: dict[str, Any] = {"metrics": {}}
    for name in dict.fromkeys(name for record in group.records for name in record.numbers):
        found, (stage, _, key) = group.estimate(name), name.partition(".")
        assert found is not None
        if stage in STAGES:
            means["metrics"].setdefault(stage, {})[key] = found.mean
    first = group.first
    status = "missed_target" if group.missed else first.status
    return {**means, "row": first.row, "status": status, "expected": first.expected}
