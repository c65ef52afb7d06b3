"""A job of a sweep ends with the process that waits for it, however that one ends, and goes on in the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunebench.core.result import read_result
from prunebench.disk.lock import FolderLock
from tests.kit import SHORT

REQUEUED = 3
LAUNCHER = f"""
import os, signal, sys
from prunebench.cli import worker

def queue_again(number, frame):
    sys.exit({REQUEUED})  # once the cluster has been told

signal.signal(signal.SIGUSR2, queue_again)
sys.exit(getattr(worker, sys.argv[1])(sys.argv[2:], dict(os.environ)))
"""
"""What a cluster runs: it waits for a job and answers the warning that its time is nearly up."""
JOB = (*SHORT, "model=lenet300_100", "method=none", "schedule=simultaneous", "dataset.epochs.train=100")
DEADLINE = 20.0
"""Seconds until nobody is left."""


def start(how: str, outputs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", LAUNCHER, how, *JOB, f"paths.outputs={outputs}"]
    return subprocess.Popen(command, start_new_session=True)


def locked(outputs: Path) -> bool:
    from prunebench.disk.lock import Locked

    try:
        for folder in outputs.glob("runs/*/*/*"):
            with FolderLock(folder):
                pass
    except Locked:
        return True
    return False


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return final("run", tmp_path_factory.mktemp("straight"))


def final(how: str, outputs: Path) -> dict[str, object]:
    """What the job ends with."""
    assert start(how, outputs).wait(timeout=900) == 0
    (file,) = outputs.rglob("result.json")
    return dict(read_result(file.parent)["metrics"]["final"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no job is forked")
@pytest.mark.parametrize(
    ("how", "who", "number"),
    [
        ("run", "launcher", signal.SIGUSR2),
        *(
            pytest.param(how, who, number, marks=pytest.mark.slow)
            for how, who, number in (
                ("run", "all", signal.SIGUSR2),
                ("run", "launcher", signal.SIGKILL),
                ("run_anew", "launcher", signal.SIGUSR2),
                ("run_anew", "all", signal.SIGUSR2),
                ("run_anew", "launcher", signal.SIGKILL),
            )
        ),
    ],
)
def test_the_job_ends_with_who_waits_for_it(
    how: str, who: str, number: signal.Signals, tmp_path: Path, straight: dict[str, object]
) -> None:
    process = start(how, tmp_path)
    while not list(tmp_path.rglob("last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    assert locked(tmp_path)
    begin = time.monotonic()
    (os.killpg if who == "all" else os.kill)(process.pid, number)
    code = process.wait(timeout=DEADLINE)
    while locked(tmp_path):
        assert time.monotonic() - begin < DEADLINE
        time.sleep(0.05)
    assert code == (REQUEUED if number == signal.SIGUSR2 else -number)
    assert not list(tmp_path.rglob("result.json"))

    assert final(how, tmp_path) == straight
