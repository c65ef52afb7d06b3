"""What a finished run prints."""

from __future__ import annotations

from typing import Any

import pytest

from prunebench.cli.closing import show
from tests.core.test_result import POINTS

RESULT: dict[str, Any] = {
    "status": "complete",
    "run": {"seed": 3, "seconds": 61.2},
    **{key: {"name": f"a {key}"} for key in ("method", "model", "dataset", "schedule")},
    "metrics": {"before_cut": {"accuracy": 0.9}, "final": {"accuracy": 0.8}, "test_best_val": {"accuracy": 0.7}},
    "cost": {"macs_removed": 0.5, "params_removed": 0.25, "final": {"macs": 1_000}},
}


def lines(capsys: pytest.CaptureFixture[str], result: dict[str, Any]) -> list[list[str]]:
    """The cells of each printed line."""
    show(result)
    return [[cell.strip() for cell in line.strip("│┃").split("│")] for line in capsys.readouterr().out.splitlines()]


def test_each_stage_that_belongs_there_is_a_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = lines(capsys, RESULT)
    assert printed[0] == ["a method · a model · a dataset · a schedule · seed 3"]
    assert [cell.strip() for cell in printed[2][0].split("┃")] == ["", "dense", "before cut", "pruned", "final"]
    assert ["test accuracy %", "–", "90.00", "–", "80.00"] in printed
    assert ["MACs", "–", "–", "–", "1,000"] in printed
    assert printed[-1] == ["MACs removed 50.00 %, parameters removed 25.00 %, status complete, 61 s"]
    assert not any("operating points" in cell for line in printed for cell in line)


def test_operating_points_are_printed_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = lines(capsys, RESULT | {"points": POINTS})
    below = printed[printed.index(["operating points of the trained net"]) :]
    assert ["width 0.5", "91.20", "0.3100", "62,222,400", "420,000"] in below
    assert ["width [1/4]", "85.00", "–", "1,000", "2,000"] in below  # a name is no markup
