"""Results as one table: a row for each run, the same numbers as in the results, and files that other programs read."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import prunebench
from prunebench.errors import UserError
from prunebench.report import build
from tests.report.factory import make


@pytest.fixture
def without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name))


@pytest.mark.usefixtures("without_pandas")
def test_each_run_is_a_flat_row(tmp_path: Path) -> None:
    folders = [make(tmp_path, seed=seed) for seed in (0, 1)] + [make(tmp_path, ratio=0.5, status="failed")]
    rows: list[dict[str, Any]] = prunebench.results(tmp_path)
    assert len(rows) == len(folders)
    for folder in folders:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        [row] = [row for row in rows if (row["id"], row["seed"]) == (result["run"]["id"], result["run"]["seed"])]
        assert not any(isinstance(value, dict | list) for value in row.values())
        assert row["status"] == result["status"]
        assert row["method.prune_ratio"] == result["method"]["settings"]["prune_ratio"]
        if result["status"] == "complete":
            assert row["final.accuracy"] == result["metrics"]["final"]["accuracy"]
            assert row["macs_removed"] == result["cost"]["macs_removed"]
            assert [row["interval_low"], row["interval_high"]] == result["guarantee"]["accuracy_interval_95"]
        else:
            assert row["error"] == result["error"] and "final.accuracy" not in row


@pytest.mark.usefixtures("without_pandas")
def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    (make(tmp_path, seed=1) / "result.json").write_text("{")
    with pytest.warns(UserWarning, match="1 results are left out, for example .*seed_1/result.json: cannot be read"):
        assert len(prunebench.results(tmp_path)) == 1
    with pytest.raises(UserError, match="is not a folder"):
        prunebench.results(tmp_path / "nothing")


def test_with_pandas_it_is_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    pandas = ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("frame", rows)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pandas)
    kind, rows = prunebench.results(str(tmp_path))
    assert kind == "frame" and rows[0]["method"] == "fpgm"


def test_the_files_have_spread_interval_number_and_settings(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path / "runs", method="random", seed=seed)
    make(tmp_path / "runs", method="random", ratio=0.2)
    build(tmp_path / "runs", tmp_path / "out", pictures=False)
    with (tmp_path / "out" / "tables" / "configurations.csv").open(encoding="utf-8") as file:
        one, three = sorted(csv.DictReader(file), key=lambda row: int(row["seeds"]))
    with (tmp_path / "out" / "tables" / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    values = [float(row["final_accuracy"]) for row in runs if row["id"] == three["id"]]
    mean = sum(values) / 3
    sd = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    half = 4.302653 * sd / 3**0.5  # Student's quantile of 97.5 % with two degrees of freedom
    found = [float(three[f"accuracy{end}"]) for end in ("", "_sd", "_low", "_high", "_n")]
    assert found == pytest.approx([mean, sd, mean - half, mean + half, 3])
    assert (one["accuracy_n"], one["accuracy_sd"], one["accuracy_low"]) == ("1", "", "")
    assert json.loads(three["settings"])["method.prune_ratio"] == 0.4
    assert {row["method_prune_ratio"] for row in runs} == {"0.4", "0.2"}
