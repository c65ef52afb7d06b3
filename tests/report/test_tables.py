"""Three formats of one table: what is text stays text, and numbers keep their units."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from prunebench.measure.metrics import ACCURACY, NLL
from prunebench.report.configurations import estimate
from prunebench.report.tables import (
    MARKS,
    Cell,
    Column,
    Table,
    over_seeds,
    points,
    signed,
    to_csv,
    to_latex,
    to_markdown,
    write,
)

TABLE = Table(
    "example",
    "ResNet_56 & friends",
    (Column("Method"), Column("paper", numeric=True, name="accuracy_paper", group="Accuracy %")),
    [
        [Cell("a|b <script>alert(1)</script>"), Cell("93.26 ± 0.31", 0.9326, "recall-low")],
        [Cell("50% $x$ #1_{2}\n~^\\"), Cell()],
    ],
    ("A note",),
)


def test_markdown() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "### ResNet\\_56 &amp; friends"
    assert lines[2:4] == ["| Method | Accuracy %, paper |", "|---|---:|"]
    assert lines[4] == "| a\\|b &lt;script&gt;alert(1)&lt;/script&gt; | 93.26 ± 0.31<sup>Ml</sup> |"
    # a line break inside a cell would end the row
    assert lines[5] == "| 50% $x$ #1\\_{2} \\~^\\\\ | – |"
    assert lines[7] == "<sup>Ml</sup> from memory, low confidence."
    assert lines[9] == "- A note"


def test_latex() -> None:
    text = to_latex(TABLE)
    assert r"\begin{tabular}{lr}" in text
    assert r"a|b <script>alert(1)</script> & 93.26 $\pm$ 0.31\textsuperscript{Ml} \\" in text
    assert r"50\% \$x\$ \#1\_\{2\} \textasciitilde{}\textasciicircum{}\textbackslash{} & -- \\" in text
    assert r"\caption{ResNet\_56 \& friends. \textsuperscript{Ml} from memory, low confidence. A note.}" in text


def test_csv_has_the_units_of_the_store_and_the_source() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0]["accuracy_paper"] == "0.9326"
    assert rows[0]["accuracy_paper_source"] == "recall-low"
    assert rows[0]["method"] == "a|b <script>alert(1)</script>"
    assert rows[1]["accuracy_paper"] == rows[1]["accuracy_paper_source"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+A1", "@SUM(A1)", "-2+3|cmd /C calc!A0"])
def test_a_spreadsheet_runs_no_cell(text: str) -> None:
    table = Table("t", "t", (Column("Method"),), [[Cell(text)]])
    [row] = csv.reader(io.StringIO(to_csv(table).split("\n", 1)[1]))
    assert row == [f"'{text}"]


def test_marks_are_letters_of_their_own() -> None:
    letters = [letter for letter, _ in MARKS.values()]
    assert len(set(letters)) == len(letters)
    assert Cell("1", source="secondary+digitised").mark == "Sd"
    assert Cell("1", source="secondary+digitised").meaning == "read in a secondary source, read off a plot"


def test_metrics_over_seeds_and_points() -> None:
    assert over_seeds(ACCURACY, estimate([0.9358, 0.9341, 0.9377])).text == "93.59 ± 0.18"
    assert over_seeds(ACCURACY, estimate([0.5])).text == "50.00"
    assert over_seeds(ACCURACY, estimate([0.5])).note == "one seed: no spread is known"
    assert over_seeds(ACCURACY, None).text == "–"
    assert over_seeds(NLL, estimate([0.25, 0.75])).text == "0.5000"
    assert points(estimate([-0.0123])).text == "−1.23"
    assert [signed(v) for v in (0.001, -0.001, 0.5, -0.5)] == ["0.00", "0.00", "+0.50", "−0.50"]


def test_all_three_files_are_written(tmp_path: Path) -> None:
    names = [path.name for path in write(TABLE, tmp_path / "new")]
    assert names == ["example.md", "example.tex", "example.csv"]
    assert all((tmp_path / "new" / name).stat().st_size for name in names)
