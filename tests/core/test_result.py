"""What a result file must hold to be read, and what a run shows of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from prunebench.core.result import (
    is_complete,
    masked_share,
    points_summary,
    read_result,
    removed,
    summary,
    write_result,
)
from prunebench.errors import UserError


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 7, "status": "complete"}', '{"schema": 1}'])
def test_truncated_and_foreign_results_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result"):
        read_result(tmp_path)


def test_failed_runs_run_again(tmp_path: Path) -> None:
    assert not is_complete(tmp_path)
    for status, complete in (("failed", False), ("missed_target", True), ("complete", True)):
        write_result(tmp_path, {"schema": 1, "status": status})
        assert is_complete(tmp_path) is complete


def test_a_folder_that_was_copied_for_another_seed_is_not_complete(tmp_path: Path) -> None:
    write_result(tmp_path / "seed_0", {"schema": 1, "status": "complete", "run": {"seed": 0}})
    assert is_complete(tmp_path / "seed_0")
    for name, complete in (("seed_7", False), ("elsewhere", True)):
        shutil.copytree(tmp_path / "seed_0", tmp_path / name)
        assert is_complete(tmp_path / name) is complete


def test_the_table_shows_percent_and_hides_what_was_not_measured() -> None:
    result = {
        "metrics": {"dense": {"accuracy": 0.9339}, "final": {"accuracy": 0.92, "ece": 0.041}},
        "cost": {"dense": {"macs": 125_485_696}, "final": {"macs": 62_222_400}},
    }
    rows = dict(summary(result))
    assert rows["test accuracy %"] == ["93.39", "–", "92.00"]
    assert rows["ECE %"] == ["–", "–", "4.10"]
    assert rows["MACs"] == ["125,485,696", "–", "62,222,400"]
    assert "top-5 %" not in rows


def test_the_table_shows_what_a_method_reports_under_its_own_name() -> None:
    stage = {"accuracy": 0.5, "method": {"uce": 0.0123456, "robust accuracy": 0.31, "widths": [3, 4], "why": "text"}}
    final = {"method": {"uce": 0.02}}
    result = {"metrics": {"pruned": stage, "final": final}, "cost": {"final": {"macs": 10}}}
    rows = summary(result)
    assert [label for label, _ in rows] == ["test accuracy %", "uce", "robust accuracy", "MACs"]
    assert dict(rows)["uce"] == ["–", "0.01235", "0.02"]
    assert dict(rows)["robust accuracy"] == ["–", "0.31", "–"]


POINTS = [
    {
        "name": "width 0.5",
        "settings": {"width": 0.5},
        "metrics": {"accuracy": 0.912, "nll": 0.31, "uncertainty": {"error_auroc_entropy": 0.8}},
        "cost": {"macs": 62_222_400, "flops": 124_444_800, "params": 420_000},
    },
    {
        "name": "width [1/4]",
        "settings": {"width": 0.25},
        "metrics": {"accuracy": 0.85, "nll": None},
        "cost": {"macs": 1_000, "params": 2_000},
    },
]


def test_operating_points_have_a_table_of_their_own() -> None:
    head, rows = points_summary({"points": POINTS})
    assert head == ["", "test accuracy %", "NLL", "MACs", "parameters"]
    assert rows == [
        ["width 0.5", "91.20", "0.3100", "62,222,400", "420,000"],
        ["width [1/4]", "85.00", "–", "1,000", "2,000"],
    ]


def cost(params: int, nonzero: int) -> dict[str, Any]:
    return {"macs_removed": 0.0, "params_removed": 0.0, "final": {"params": params, "nonzero_params": nonzero}}


def test_weights_that_are_zero_but_still_there_are_called_masked() -> None:
    assert removed(cost(1000, 200)).endswith("MASKED: 80.00 % of those that are left are zero but still there")
    # biases of a fresh norm layer are zero, too, and nobody has masked them
    assert removed(cost(1000, 995)) == "MACs removed 0.00 %, parameters removed 0.00 %"
    assert masked_share({"params": 1000}) == 0.0
    assert masked_share({"params": 0, "nonzero_params": 0}) == 0.0
