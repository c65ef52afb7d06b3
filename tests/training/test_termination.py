"""A run that is told to stop is interrupted, not failed: it leaves no result and goes on where it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch import nn

from prunebench.core.clock import Clock
from prunebench.core.method import Method
from tests.kit import SHORT, run

NET = (*SHORT, "model=lenet300_100", "method=none", "schedule=simultaneous", "dataset.epochs.train=3")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_stopped_run_leaves_no_result_and_goes_on(
    number: signal.Signals, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, _ = run(tmp_path / "straight", *NET)

    def stop(self: Method, net: nn.Module, clock: Clock) -> None:
        if clock.epoch == 1:
            os.kill(os.getpid(), number)  # what a cluster sends when a job's time is up, and what Ctrl-C sends

    handler = signal.getsignal(number)
    with monkeypatch.context() as stopped:
        stopped.setattr(Method, "start_epoch", stop)
        if number == signal.SIGINT:  # a shell starts what it leaves in the background without it
            signal.signal(number, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt, match=f"phase train was {said}"):
            run(tmp_path / "stopped", *NET)
    signal.signal(number, handler)
    assert list((tmp_path / "stopped").rglob("last.ckpt")) and not list((tmp_path / "stopped").rglob("result.json"))

    resumed, _ = run(tmp_path / "stopped", *NET)
    assert resumed["status"] == "complete"
    assert resumed["metrics"]["final"] == straight["metrics"]["final"]


def test_a_login_node_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SLURM is installed Lightning asks each phase to be started with it; here a warning would be an error."""
    command = tmp_path / "bin" / "srun"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    words = (*NET, "dataset.epochs.train=1")
    assert run(tmp_path / "runs", *words)[0]["warnings"] == []
