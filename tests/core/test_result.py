"""What a result file must hold to be read, and what a run shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunebench.core.result import is_complete, masked_share, read_result, removed, summary
from prunebench.disk.atomic import write_json
from prunebench.errors import UserError


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 7, "status": "complete"}', '{"schema": 1}'])
def test_truncated_and_foreign_results_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result"):
        read_result(tmp_path)


def test_failed_runs_run_again(tmp_path: Path) -> None:
    assert not is_complete(tmp_path)
    for status, complete in (("failed", False), ("missed_target", True), ("complete", True)):
        write_json(tmp_path / "result.json", {"schema": 1, "status": status})
        assert is_complete(tmp_path) is complete


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


def cost(params: int, nonzero: int) -> dict[str, Any]:
    return {"macs_removed": 0.0, "params_removed": 0.0, "final": {"params": params, "nonzero_params": nonzero}}


def test_weights_that_are_zero_but_still_there_are_called_masked() -> None:
    assert removed(cost(1000, 200)).endswith("MASKED: 80.00 % of those that are left are zero but still there")
    # biases of a fresh norm layer are zero, too, and nobody has masked them
    assert removed(cost(1000, 995)) == "MACs removed 0.00 %, parameters removed 0.00 %"
    assert masked_share({"params": 1000}) == 0.0
    assert masked_share({"params": 0, "nonzero_params": 0}) == 0.0
