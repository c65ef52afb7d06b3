"""Whichever of the processes that train together is ended, all end and the folder is free; the next start goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException

from prunebench.core.result import read_result
from prunebench.errors import UserError
from prunebench.training.ranks import ended
from tests.kit import SHORT

RUN = (
    *SHORT,
    *("method=none", "schedule=simultaneous", "dataset.epochs.train=20", "trainer.accelerator=cpu"),
    *("trainer.devices=2", "trainer.strategy=ddp"),
    *("model=custom", "model._target_=tests.training.test_rank_ends.HalfUsed", "model.name=half_used"),
)
DEADLINE = 10.0
"""Seconds until nobody is left."""


class HalfUsed(nn.Module):
    """A net with a layer that its forward pass leaves out."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.used = nn.Linear(64 * in_channels, num_classes)
        self.unused = nn.Linear(64, 64)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.used(images.flatten(1))
        return logits


def start(outputs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prunebench", *RUN, f"paths.outputs={outputs}"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def final(process: subprocess.Popen[str], outputs: Path) -> dict[str, object]:
    """What the run ends with."""
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    (file,) = outputs.rglob("result.json")
    return dict(read_result(file.parent)["metrics"]["final"])


def children(session: int) -> list[int]:
    """The ranks, and nobody else: they are told by how they were started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and fields[0] != "Z" and b"spawn_main" in line:
            found.append(int(folder.name))
    return sorted(found)


def until(reached: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(reached())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    outputs = tmp_path_factory.mktemp("straight")
    return final(start(outputs), outputs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize(
    ("who", "how"), [(who, how) for who in ("main", "rank") for how in (signal.SIGKILL, signal.SIGTERM)], ids=str
)
def test_all_end_and_the_next_start_goes_on(
    who: str, how: signal.Signals, tmp_path: Path, straight: dict[str, object]
) -> None:
    process = start(tmp_path)
    assert until(lambda: list(tmp_path.rglob("last.ckpt")), 300), process.communicate()
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(process.pid if who == "main" else ranks[-1], how)
    assert until(lambda: process.poll() is not None and not children(process.pid), DEADLINE), children(process.pid)
    message = process.communicate()[1]
    if who == "rank":
        assert f"was ended by {how.name}" in message and "Traceback" not in message

    assert final(start(tmp_path), tmp_path) == straight


def test_the_sentence_names_phase_rank_and_signal() -> None:
    killed = ProcessExitedException("", error_index=1, error_pid=7, exit_code=-9, signal_name="SIGKILL")
    with pytest.raises(UserError, match=r"phase train: process 1 .* was ended by SIGKILL \(.* memory"):
        raise ended(killed, "train")
    left = ProcessExitedException("", error_index=0, error_pid=7, exit_code=3)
    with pytest.raises(UserError, match="with exit code 3"):
        raise ended(left, "train")
