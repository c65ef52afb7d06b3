"""A duration is that of all sessions, whatever ended them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunebench.disk import stopwatch
from prunebench.disk.stopwatch import Stopwatch

KILLED = """
import sys, time
from pathlib import Path
from prunebench.disk import stopwatch
stopwatch.BEAT = 0.05
with stopwatch.Stopwatch(Path(sys.argv[1])):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be moved by hand."""
    moment = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


def test_the_seconds_of_sessions_add_up(tmp_path: Path, now: list[float]) -> None:
    path = tmp_path / "times.json"
    for session, seconds in enumerate((3.0, 5.5, 0.5), 1):
        with Stopwatch(path) as watch:
            now[0] += seconds
            assert watch.sessions == session
        now[0] += 100.0  # nobody works on it
    assert watch.seconds - 100.0 == pytest.approx(9.0)
    with Stopwatch(path) as last:
        assert last.sessions == 4 and last.seconds == pytest.approx(9.0)


def test_a_session_that_ends_in_an_error_counts(tmp_path: Path, now: list[float]) -> None:
    def interrupted() -> None:
        with Stopwatch(tmp_path / "times.json"):
            now[0] += 7.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Stopwatch(tmp_path / "times.json") as watch:
        assert watch.sessions == 2 and watch.seconds == pytest.approx(7.0)


def test_other_work_has_its_own_time(tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.json"
    warnings: list[str] = []
    monkeypatch.setattr(stopwatch.log, "warning", lambda text, *words: warnings.append(text % words))
    with Stopwatch(path, after="one"):
        now[0] += 7.0
    with Stopwatch(path, after="another") as watch:
        assert watch.sessions == 1 and watch.seconds == pytest.approx(0.0)
    path.write_text("{")
    with Stopwatch(path, after="another") as watch:
        assert watch.sessions == 1 and watch.seconds == pytest.approx(0.0)
    assert len(warnings) == 2 and all("the time of earlier sessions is not counted" in text for text in warnings)


def test_a_killed_session_counts_up_to_its_last_beat(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        begun = time.perf_counter()
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        longest = time.perf_counter() - begun + 0.5  # and what lay between its beginning and its word
    with Stopwatch(path) as watch:
        assert watch.sessions == 2 and 0.3 < watch.seconds < longest + 0.5


def test_a_full_disk_is_not_the_stopwatch_s_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with Stopwatch(tmp_path / "times.json") as watch:
        assert watch.sessions == 1
    assert not list(tmp_path.iterdir())
