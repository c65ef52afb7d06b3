"""One table of a paper, ours beside the paper's, with the provenance of every cell and the state of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunebench.measure.metrics import CALIBRATION, HEADLINES, METRICS, NOTHING
from prunebench.report.configurations import CLAIM_SEEDS, Estimate, Group
from prunebench.report.record import Record
from prunebench.report.tables import Cell, Column, Table, mean, signed
from prunebench.report.values import ORDER, form, grown, heading, ours
from prunebench.rows import Row
from prunebench.rows.compare import remarks
from prunebench.rows.conventions import CONVENTIONS

STATES = {
    "reproduced": ("reproduced", "good"),
    "run": ("run, not reproduced", "info"),
    "changed": ("changed settings", "warn"),
    "failed": ("failed", "bad"),
    "ready": ("not run yet", "off"),
    "pending": ("pending", "off"),
    "quoted": ("quoted", "off"),
}
"""State of a row → its words and the look of its chip.

Reproduced: a complete run of ours is as near to the paper's number as the row's tolerance, and has the published sizes.
Run: there is a number of ours that is no such reproduction, or not comparable. Changed: a shortened run, or one with
other settings than the row's; never compared. Failed: every run of it ended with an error. Pending: the method is not
built. Quoted: another paper's number, never ranked.
"""
_GUARANTEES = {"full": "full guarantee", "interval_only": "interval only", "none": "no guarantee"}
_ALWAYS = ("macs_removed", "params_removed")
"""Shown wherever there is a run, since one of them alone says little (Blalock et al. 2019)."""
_HEADLINES = tuple(metric.key for metric in HEADLINES)
_COMPARED = tuple(f"{prefix}{key}" for key in _HEADLINES for prefix in ("dense_", ""))
_COMMON = (*_COMPARED, *_ALWAYS)
_MASKED = ("params", "params_removed", "compression")
"""Sizes beside which it must stand that weights are only zero and not gone."""
_BESIDE = ("reproduced", "known difference")
"""Remarks that stand elsewhere: the state of the row, and the row's own note."""
_SIZES = ("macs", "dense_macs", "macs_removed", "macs_kept", "flops", "dense_flops")
_LATENCY = (("final.batch_1_ms", METRICS["batch_1_ms"]), ("speedup.batch_1", METRICS["speedup.batch_1"]))
_OURS = ("conv_linear", "none")
"""Conventions that need no explanation: ours, and that of papers without counts."""


@dataclass(frozen=True)
class Line:
    """One row or arm with what we have for it.

    Attributes:
        group: our runs of it, None without any. ``found``: what ``rows.compare`` says about their means.
        failed: runs of it that ended with an error.
    """

    row: Row
    group: Group | None
    found: Mapping[str, Any] | None
    failed: tuple[Record, ...] = ()

    @property
    def state(self) -> str:
        """Which of ``STATES`` it is in."""
        if self.row.kind == "quoted":
            return "quoted"
        if self.group is not None:
            if (self.group.first.expected or {}).get("changed"):
                return "changed"
            return "reproduced" if self.found and self.found["reproduced"] else "run"
        if self.failed:
            return "failed"
        return "pending" if self.row.overrides is None else "ready"


def paper_table(name: str, title: str, lines: Sequence[Line]) -> Table:
    """The table ``title`` of a paper; columns of ours appear as soon as one of its rows has a run."""
    run = any(line.group for line in lines)
    published = dict.fromkeys(key for line in lines for key in line.row.reported if not key.endswith("_sd"))
    names = [key for key in ORDER if key in published or (run and key in _ALWAYS)]
    names += [key for key in published if key not in ORDER]
    shown = [key for key in names if run and any(line.group and ours(line.group, key) for line in lines)]
    columns = [Column("Row"), Column("State"), Column("Model"), Column("Data set")]
    for key in names:
        over = heading(key)
        columns.append(Column("paper", numeric=True, name=f"{key}_paper", group=over, starts=True))
        if key in shown:
            columns.append(Column("ours", numeric=True, name=f"{key}_ours", group=over))
        if key in shown and key in _COMPARED:
            columns.append(Column("Δ", numeric=True, name=f"{key}_difference", group=over))
    if run:
        columns.append(Column("batch 1", numeric=True, name="batch_1_ms", group="Latency ms, ours", starts=True))
        columns.append(Column("×", numeric=True, name="speedup_batch_1", group="Latency ms, ours"))
    rows = [[*_head(line), *_values(line, names, shown, _COMPARED), *_latency(line, run)] for line in lines]
    return Table(name, title, tuple(columns), rows, _notes(lines))


def run_table(name: str, title: str, lines: Sequence[Line]) -> Table:
    """Rows of any papers side by side: quality, both sizes, calibration, latency."""
    keys = [key for key in _COMMON if any(_known(line, key) for line in lines)]
    columns = [Column("Row"), Column("State")]
    for key in keys:
        over = heading(key)
        columns.append(Column("paper", numeric=True, name=f"{key}_paper", group=over, starts=True))
        columns.append(Column("ours", numeric=True, name=f"{key}_ours", group=over))
        if key in _HEADLINES:
            columns.append(Column("Δ", numeric=True, name=f"{key}_difference", group=over))
    calibration = CALIBRATION.key
    columns.append(Column("ours", numeric=True, name=f"{calibration}_ours", group=CALIBRATION.column, starts=True))
    timed = any(cell.value is not None for line in lines for cell in _latency(line, run=True))
    if timed:
        columns.append(Column("batch 1", numeric=True, name="batch_1_ms", group="Latency ms, ours", starts=True))
        columns.append(Column("×", numeric=True, name="speedup_batch_1", group="Latency ms, ours"))
    rows = []
    for line in lines:
        setting, state, *_ = _head(line)
        first = Cell(f"{line.row.paper}, {line.row.table}: {setting.text}", below=setting.below)
        values = _values(line, keys, keys, differences=_HEADLINES)
        rows.append([first, state, *values, _measured(line.group, calibration), *_latency(line, run=timed)])
    return Table(name, title, tuple(columns), rows, tuple(_refusals(lines)))


def _known(line: Line, key: str) -> bool:
    return line.row.value(key) is not None or bool(line.group and ours(line.group, key))


def _refusals(lines: Sequence[Line]) -> list[str]:
    """Why differences are refused, reproductions fail and runs failed, each reason once; which nets have grown."""
    names: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        found = line.found
        if found and found["refused"]:
            names.setdefault(("difference refused", found["refused"]), []).append(line.row.name)
        for head, text in remarks(found) if found else ():
            if head not in _BESIDE:
                names.setdefault((head, text), []).append(line.row.name)
        for record in line.failed:
            error = record.error or "it ended without a message"
            names.setdefault(("failed", error), []).append(f"{line.row.name} seed {record.seed}")
    larger = grown([(line.row.name, line.group) for line in lines if line.group])
    return larger + [f"{head.capitalize()} for {', '.join(found)}: {text}" for (head, text), found in names.items()]


def _head(line: Line) -> list[Cell]:
    row, group = line.row, line.group
    names = [" or ".join(found) if isinstance(found, tuple) else found or NOTHING for found in (row.model, row.dataset)]
    setting = ", ".join(part for part in (row.setting, (row.arm or "").replace("_", " ")) if part)
    words, chip = STATES[line.state]
    if line.state == "run" and line.found and line.found["paper"] is None:
        words = "run, not compared"
    below = []
    if group:
        level, _ = group.guarantee
        below = [_seeds(len(group.records)), _GUARANTEES[level]]
        if line.state == "reproduced" and len(group.records) < CLAIM_SEEDS:
            below.insert(1, f"a claim needs {CLAIM_SEEDS}")
    if group and group.repeats:
        below.append(group.repeats)
    if line.failed and group:
        below.append(f"{len(line.failed)} failed")
    said = [f"{head}: {text}" for head, text in remarks(line.found)] if line.found else []
    note = row.pending or "; ".join(said or [record.error or "" for record in line.failed])
    state = Cell(words, chip=chip, note=note, below=", ".join(below))
    return [Cell(setting or row.id, below=row.name), state, *(Cell(name) for name in names)]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _values(line: Line, names: Sequence[str], shown: Sequence[str], differences: Sequence[str]) -> list[Cell]:
    cells = []
    for key in names:
        cells.append(_published(line.row, key))
        if key in shown:
            own = line.row.measured.get(key) if line.found else None
            cells.append(_measured(line.group, key, own))
        if key in shown and key in differences:
            cells.append(_difference(line, key))
    return cells


def _published(row: Row, key: str) -> Cell:
    value = row.value(key)
    if value is None:
        return Cell()
    source = f"recall-{row.confidence}" if row.source == "recall" else row.source
    source += "+digitised" if row.digitised else ""
    source += "" if key in row.reported else "+computed"
    spread = row.reported.get(f"{key}_sd")
    sd = spread if isinstance(spread, int | float) else None
    reported = row.reported.get(key)
    note = f"mean of {len(reported)} published values" if isinstance(reported, tuple) else ""
    return Cell(form(key, value, sd), value, source, note)


def _measured(group: Group | None, key: str, own: str | None = None) -> Cell:
    """Our value of the published ``key``; ``own`` is the name of another one that the row wants in its place."""
    found: Estimate | None = None
    if group:
        found = group.estimate(own) if own else ours(group, key)
    if group is None or found is None:
        return Cell()
    source = "checkpoint" if group.first.checkpoint else "trained"
    note = _seeds(found.count)
    masked = f"masked, {100 * group.masked:.1f} % zero" if group.masked and key in _MASKED else ""
    return Cell(form(key, found.mean, found.sd), found.mean, source, note, run=group.id, below=masked)


def _difference(line: Line, key: str) -> Cell:
    if line.found is None:
        return Cell()
    if key == line.found["metric"] and line.found["refused"]:
        return Cell("refused", note=line.found["refused"])
    value = line.found["difference"] if key == line.found["metric"] else line.found["baseline"]["difference"]
    if value is None or key not in (line.found["metric"], f"dense_{line.found['metric']}"):
        return Cell()
    unchecked = key == line.found["metric"] and line.found["baseline"]["why"]
    shown = signed(value * METRICS[line.found["metric"]].unit.scale)
    return Cell(shown, value, note=unchecked or "", below="baseline not checked" if unchecked else "")


def _latency(line: Line, run: bool) -> list[Cell]:
    if not run:
        return []
    group = line.group
    return [Cell() if group is None else mean(metric, group.estimate(name)) for name, metric in _LATENCY]


def _notes(lines: Sequence[Line]) -> tuple[str, ...]:
    """What the paper counts, why rows wait, why differences are refused, what the specification warns of."""
    counted = [line.row for line in lines if any(key in line.row.reported for key in _SIZES)]
    conventions = dict.fromkeys(row.convention for row in counted if row.convention not in _OURS)
    notes = [f"The paper counts {CONVENTIONS[name]}; ours: {CONVENTIONS['conv_linear']}" for name in conventions]
    waiting = Counter(line.row.pending for line in lines if line.state == "pending" and line.row.pending)
    notes += [f"Pending ({count} row{'s' if count > 1 else ''}): {reason}" for reason, count in waiting.items()]
    notes += _refusals(lines)
    for line in lines:
        reasons = [line.row.note or "", line.row.macs_note or "", *line.row.misprints.values()]
        if any(reasons):
            notes.append(f"{line.row.name}: {'; '.join(reason.strip().rstrip('.') for reason in reasons if reason)}")
    return tuple(notes)
