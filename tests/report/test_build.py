"""The whole report: what is written, what is removed, and the command."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench import report
from prunebench.report import build
from tests.report.conftest import Built
from tests.report.factory import make

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"


def test_every_table_is_written_in_three_formats(built: Built) -> None:
    names = {path.name for path in built.report.tables}
    for stem in ("configurations", "comparisons", "ranks", "papers", "checks", "rows", "fpgm-table_1"):
        assert {f"{stem}.md", f"{stem}.tex", f"{stem}.csv"} <= names
    with (built.out / "tables" / "runs.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(built.report.collection.records)


def test_unreadable_results_are_named(built: Built) -> None:
    reasons = sorted(item.reason for item in built.report.collection.left_out)
    assert len(reasons) == 2
    assert "cannot be read" in reasons[0]
    assert "is not a result of schema 1" in reasons[1]


def test_tables_of_runs_that_are_gone_are_removed_and_nothing_else(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    folders = [make(runs, method=method) for method in ("fpgm", "l1norm")]
    build(runs, out, pictures=False)
    assert (out / "tables" / "comparisons.md").exists()
    (out / "tables" / "mine.md").write_text("kept")
    shutil.rmtree(folders[0])
    build(runs, out, pictures=False)
    assert not (out / "tables" / "comparisons.md").exists()
    assert (out / "tables" / "mine.md").exists()


@pytest.mark.parametrize(
    "listing",
    ["5", "null", "{", '["."]', '[""]', '["tables"]', '["\\u0000"]', '["\\ud800"]', f'["{"x" * 5000}"]', "[[1], 2]"],
)
def test_a_damaged_list_of_an_earlier_report_removes_nothing(listing: str, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    written = [tmp_path / "index.html", tmp_path / "tables" / "runs.csv"]
    for file in written:
        file.write_text("")
    (tmp_path / "files.json").write_text(listing)
    report._remove_stale(tmp_path, written)
    assert all(file.is_file() for file in written)
    assert json.loads((tmp_path / "files.json").read_text()) == ["index.html", "tables/runs.csv"]


def test_an_empty_folder_gives_an_empty_report(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    report = build(tmp_path / "runs", tmp_path / "out")
    assert report.page.stat().st_size > 10_000
    assert report.figures == []


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=900,
    )


def test_a_report_starts_without_torch() -> None:
    """It takes seconds and memory that a table does not need."""
    program = "import sys, prunebench.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_command(tmp_path: Path) -> None:
    make(tmp_path / "runs")
    broken = make(tmp_path / "runs", seed=1) / "result.json"
    broken.write_text("{")
    make(tmp_path / "store", method="l1norm")
    done = script("--no-figures", "--published", str(tmp_path / "store"), PRUNEBENCH_OUTPUTS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 runs are in the report; left out: 1 file could not be used\n")
    assert "seed_1/result.json: cannot be read" in done.stdout
    assert (tmp_path / "report" / "index.html").exists()


def test_the_command_without_runs_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    for runs, out in (("nothing", "out"), ("runs", "file"), ("runs", "file/below")):
        done = script("--runs", str(tmp_path / runs), "--out", str(tmp_path / out))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
