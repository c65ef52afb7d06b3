"""A long piece of work says how far it is, in lines of their own where nobody watches."""

from __future__ import annotations

import importlib.util
import io
import re
import time
from pathlib import Path

import pytest

from prunebench.cli.countdown import with_time_left
from prunebench.rows import Row

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixty items of 2 s: a line each 10 s, with what is left at that speed."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = []
    for item in with_time_left(range(60), "rows"):
        seen.append(item)
        now[0] += 2.0
    assert seen == list(range(60))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["5 of 60 rows, 2 min left", "10 of 60 rows, 2 min left"]
    assert lines[-1] == "55 of 60 rows, 10 s left" and len(lines) == 11


def test_work_that_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_time_left("abc", "letters")) == ["a", "b", "c"] and list(with_time_left([], "letters")) == []
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_time_left_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert list(with_time_left(range(3), "rows")) == [0, 1, 2]
    assert "rows" in written.getvalue() and "3/3" in written.getvalue()
    assert re.search(r"\d:\d\d:\d\d", written.getvalue())


def test_a_sample_of_the_rows_is_drawn_by_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("rows_script", ROOT / "scripts" / "rows.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    class Nothing:
        counts = ()

    def looked_at(*words: str) -> list[str]:
        names: list[str] = []

        def note(part: Row) -> type[Nothing]:
            names.append(part.name)
            return Nothing

        monkeypatch.setattr(script, "verify", note)
        script.main(["check", "fpgm", *words])
        return names

    everything = looked_at()
    assert "sample" not in capsys.readouterr().out
    first = looked_at("--sample", "3")
    said = capsys.readouterr().out
    assert f"A sample: 3 of {len(everything)} rows that run, drawn with seed 0" in said
    assert len({*first}) == 3 and {*first} <= {*everything} and first == looked_at("--sample", "3", "--seed", "0")
    assert any(looked_at("--sample", "3", "--seed", str(seed)) != first for seed in (1, 2, 3))
    assert looked_at("--sample", "9999") == everything
