"""One table, three files: Markdown, LaTeX (booktabs) and CSV. Everything that comes from a configuration is escaped."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from prunebench.disk.paths import make_folder
from prunebench.measure.metrics import FRACTION, NOTHING, Metric
from prunebench.report.configurations import CLAIM_SEEDS, Estimate

MARKS: Mapping[str, tuple[str, str]] = {
    "official-repo": ("R", "read in the authors' repository"),
    "secondary": ("S", "read in a secondary source"),
    "abstract": ("A", "from the paper's abstract"),
    "recall-high": ("Mh", "from memory, high confidence"),
    "recall-medium": ("Mm", "from memory, medium confidence"),
    "recall-low": ("Ml", "from memory, low confidence"),
    "digitised": ("d", "read off a plot"),
    "computed": ("c", "follows from other published values"),
    "trained": ("T", "measured here on a net trained here"),
    "checkpoint": ("K", "measured here on a pretrained checkpoint"),
}
"""Where a cell comes from: letters for the tables and what they mean. ``a+b`` joins two of them."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as a reader sees it. ``value``: the number behind it, in the units of the store, for CSV and sorting.
        source: one or more keys of ``MARKS``, joined by ``+``; empty for a cell without provenance.
        note: why the cell is empty or doubtful. ``run``: id of the runs behind it.
        below: a second, quieter line of the page. ``chip``: look on the page: good, info, warn, bad or off.
        over: the mean and its spread over seeds that ``value`` is from, for CSV.
    """

    text: str = NOTHING
    value: float | None = None
    source: str = ""
    note: str = ""
    run: str = ""
    below: str = ""
    chip: str = ""
    over: Estimate | None = None

    @property
    def mark(self) -> str:
        """Letters for where the value is from, see ``MARKS``."""
        return "".join(MARKS[part][0] for part in self.source.split("+") if part)

    @property
    def meaning(self) -> str:
        """The same in words."""
        return ", ".join(MARKS[part][1] for part in self.source.split("+") if part)


@dataclass(frozen=True)
class Column:
    """Heading of a column.

    Attributes:
        numeric: aligned to the right. ``name``: the heading in CSV. ``data``: only in CSV.
        group: heading over several columns, the same for all of them. ``starts``: it is the first of its group.
    """

    title: str
    numeric: bool = False
    name: str = ""
    group: str = ""
    starts: bool = False
    data: bool = False

    @property
    def full(self) -> str:
        """The heading with that of its group."""
        return f"{self.group}, {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Table:
    """A table with its file name (without suffix), heading and the sentences below it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    notes: tuple[str, ...] = field(default=())

    @property
    def marks(self) -> list[tuple[str, str]]:
        """Letters that occur, with their meaning."""
        used = {part for row in self.rows for cell in row for part in cell.source.split("+")}
        return [MARKS[source] for source in MARKS if source in used]

    @property
    def readable(self) -> Table:
        """Without the columns that are only data."""
        kept = [i for i, column in enumerate(self.columns) if not column.data]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=rows)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """``(heading, number of columns)`` of the upper line of the head; empty without groups."""
        if not any(column.group for column in self.columns):
            return []
        runs = groupby(self.columns, key=lambda column: column.group)
        return [(heading, len(list(columns))) for heading, columns in runs]


# ---------------------------------------------------------------------------------------------- cells
def text(value: object, note: str = "") -> Cell:
    """A cell of words."""
    return Cell(str(value) if value not in (None, "") else NOTHING, note=note)


def over_seeds(metric: Metric, found: Estimate | None) -> Cell:
    """A metric over seeds: the mean, fractions with ± sample standard deviation."""
    if found is None or metric.unit is not FRACTION:
        return mean(metric, found)
    spread = "" if found.sd is None else f" ± {metric.show(found.sd)}"
    return Cell(f"{metric.show(found.mean)}{spread}", found.mean, note=seeds_note(found), over=found)


def mean(metric: Metric, found: Estimate | None) -> Cell:
    """The mean of a metric over seeds alone."""
    return Cell() if found is None else Cell(metric.show(found.mean), found.mean, over=found)


def points(found: Estimate | None, digits: int = 2) -> Cell:
    """A difference of fractions over seeds in signed points."""
    if found is None:
        return Cell()
    spread = "" if found.sd is None else f" ± {100 * found.sd:.{digits}f}"
    return Cell(f"{signed(100 * found.mean, digits)}{spread}", found.mean, note=seeds_note(found), over=found)


def millions(found: Estimate | None, form: str) -> Cell:
    """The mean of a count in millions."""
    return Cell() if found is None else Cell(form.format(found.mean * 1e-6), found.mean, over=found)


def signed(value: float, digits: int = 2) -> str:
    """With a real minus sign, and no sign on a zero."""
    shown = f"{abs(value):.{digits}f}"
    if not float(shown):
        return shown
    return f"{'−' if value < 0 else '+'}{shown}"


def p_value(p: float) -> str:
    """Three decimals, or an upper limit."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seeds_note(found: Estimate) -> str:
    """How many seeds a mean has and its t interval."""
    if found.half_width is None:
        return "one seed: no spread is known"
    few = "" if found.count >= CLAIM_SEEDS else f"; fewer than {CLAIM_SEEDS} seeds support no claim"
    return f"{found.count} seeds, 95 % t interval of the mean ± {100 * found.half_width:.2f} points{few}"


# ---------------------------------------------------------------------------------------------- files
def write(table: Table, folder: Path, suffixes: Sequence[str] = (".md", ".tex", ".csv")) -> list[Path]:
    """Write ``<name>.md``, ``.tex`` and ``.csv`` into ``folder``, or some of them."""
    writers = {".md": to_markdown, ".tex": to_latex, ".csv": to_csv}
    make_folder(folder)
    paths = [folder / f"{table.name}{suffix}" for suffix in suffixes]
    for path in paths:
        shown = table if path.suffix == ".csv" else table.readable
        path.write_text(writers[path.suffix](shown), encoding="utf-8")
    return paths


def to_markdown(table: Table) -> str:
    """GitHub's Markdown: a heading, the table, the legend of the marks and the notes."""
    lines = [f"### {_markdown(table.title)}", ""]
    lines.append("| " + " | ".join(_markdown(column.full) for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|")
    for row in table.rows:
        cells = (f"{_markdown(c.text)}<sup>{c.mark}</sup>" if c.mark else _markdown(c.text) for c in row)
        lines.append("| " + " | ".join(cells) + " |")
    legend = [f"<sup>{letter}</sup> {meaning}" for letter, meaning in table.marks]
    lines += ["", ". ".join(legend) + "."] if legend else []
    lines += ["", *(f"- {_markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A ``table`` environment; the document needs the package ``booktabs``."""
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    legend = [rf"\textsuperscript{{{letter}}} {_latex(meaning)}" for letter, meaning in table.marks]
    caption = ". ".join([_latex(table.title), *legend, *(_latex(note.rstrip(".")) for note in table.notes)])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}.}}", rf"\label{{tab:{_slug(table.name)}}}"]
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [" & ".join(_latex(column.full) for column in table.columns) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = (_latex(c.text) + (rf"\textsuperscript{{{c.mark}}}" if c.mark else "") for c in row)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """Numbers in the units of the store.

    Beside a column stand, where it has them, its marks as ``_source``, its second lines as ``_detail``, and of means
    over seeds the sample standard deviation as ``_sd``, the 95 % t interval as ``_low`` and ``_high``, and how many
    seeds have the number as ``_n``.
    """
    extra = [
        [name for name, function in _BESIDE.items() if any(function(row[i]) not in ("", None) for row in table.rows)]
        for i in range(len(table.columns))
    ]
    header: list[str] = []
    for column, beside in zip(table.columns, extra, strict=True):
        name = column.name or _slug(column.full)
        header += [name, *(f"{name}_{suffix}" for suffix in beside)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[str | float | None] = []
        for cell, beside in zip(row, extra, strict=True):
            shown = "" if cell.text == NOTHING else csv_text(cell.text)
            line.append(shown if cell.value is None else cell.value)
            line += [_BESIDE[name](cell) for name in beside]
        writer.writerow(line)
    return buffer.getvalue()


def _end(cell: Cell, end: int) -> float | None:
    interval = None if cell.over is None else cell.over.interval
    return None if interval is None else interval[end]


_BESIDE: Mapping[str, Callable[[Cell], str | float | None]] = {
    "source": lambda cell: csv_text(cell.source),
    "detail": lambda cell: csv_text(cell.below),
    "sd": lambda cell: None if cell.over is None else cell.over.sd,
    "low": lambda cell: _end(cell, 0),
    "high": lambda cell: _end(cell, 1),
    "n": lambda cell: None if cell.over is None else cell.over.count,
}


def csv_text(value: str) -> str:
    """``value`` as no spreadsheet runs it: a cell that begins like a formula is one to them."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _markdown(value: str) -> str:
    escaped = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\|`*_\[\]~])", r"\\\1", escaped)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _latex(value: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(value.split()))


def _slug(value: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") or "column"
