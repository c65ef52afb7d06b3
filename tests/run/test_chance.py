"""A net that has learned nothing is said to be at chance: in the log, the closing table and the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.cli.closing import show
from prunebench.measure.statistics import clopper_pearson
from prunebench.run.measurement import chance
from tests.kit import SHORT, run

NET = (*SHORT, "model=lenet300_100")


def test_chance_is_one_of_the_classes_within_the_interval() -> None:
    def said(correct: int, validation: float | None = None) -> str | None:
        interval = list(clopper_pearson(correct, 1000))
        return chance({"accuracy": correct / 1000, "interval": interval}, 10, validation)

    # Clopper-Pearson, n = 1000: the lower bound passes 10 % between 119 and 121 correct answers
    assert said(100) and said(118) and said(20)
    assert said(125) is None and said(900) is None
    assert "12.0 %" in (said(118, 0.12) or "") and "of 10 classes" in (said(118) or "")
    assert chance({"bpc": 8.0}, 256, None) is None


def test_it_is_in_the_log_the_table_and_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a learning rate of 0 leaves random weights
    result, folder = run(tmp_path, *NET, "schedule=oneshot", "schedule.phases.pretrain.lr=0")
    (text,) = result["warnings"]
    assert text.startswith("the dense net is at chance: test accuracy") and "validation" in text
    assert f"warning: {text}" in (folder / "log.txt").read_text()
    show(result)
    assert "warning: the dense net is at chance" in capsys.readouterr().out


def test_without_a_dense_net_the_final_one_is_judged(tmp_path: Path) -> None:
    bad, _ = run(tmp_path, *NET, "method=none", "schedule=simultaneous", "schedule.phases.train.lr=0")
    assert [text[:23] for text in bad["warnings"]] == ["the final net is at cha"]
    good, _ = run(tmp_path, *NET, "schedule=oneshot")
    # pruning may end at chance: only what was to be learned is judged
    assert good["metrics"]["dense"]["accuracy"] > 0.3 and good["warnings"] == []
