"""A process that ends at any moment, for any reason, costs nothing but time."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.errors import UserError
from prunebench.training.lit import Lit
from tests.run.kit import COMMAND, go_on, numbers, same

SENTENCE, TRACEBACK = 1, 2
"""Exit codes of a child that was refused, and of one that failed."""
OTHER_DISK = Path("/dev/shm")
CLUSTER = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
SCHEDULES = {
    "finetune": (),
    "oneshot": (),
    "iterative": ("schedule.phases.finetune.rounds=2",),
    "scratch": (),
    "simultaneous": ("method=soft_filter_pruning",),
}


def start(outputs: Path, *more: str, environment: Mapping[str, str] | None = None) -> int:
    """Carry the run out in a child process, with ``environment`` beside the parent's; returns its number."""
    if number := os.fork():
        return number
    code = 0
    os.environ.update(environment or {})
    tempfile.tempdir = None
    try:
        go_on(outputs, *more)
    except BaseException as error:
        code = SENTENCE if isinstance(error, UserError) else TRACEBACK
        print(f"error: {error}", flush=True)
        if code == TRACEBACK:
            traceback.print_exc()
    os._exit(code)


def ended(number: int) -> int:
    """Exit code of a child; minus the signal if one has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed(number: int, after: float) -> int:
    """Exit code of a child that is killed after so many seconds unless it has ended by then."""
    time.sleep(after)
    os.kill(number, signal.SIGKILL)  # a child that has ended is still there until it is waited for
    return ended(number)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each schedule the numbers of an uninterrupted run, and its seconds."""
    known: dict[str, tuple[dict[str, Any], float]] = {}

    def of(schedule: str) -> tuple[dict[str, Any], float]:
        if schedule not in known:
            outputs = tmp_path_factory.mktemp(schedule)
            begin = time.perf_counter()
            found = numbers(*go_on(outputs, f"schedule={schedule}", *SCHEDULES[schedule]))
            known[schedule] = found, time.perf_counter() - begin
        return known[schedule]

    return of


def moments() -> Iterator[Any]:
    yield "finetune", 0, 2
    for number in range(1, 11):
        yield pytest.param(list(SCHEDULES)[number % len(SCHEDULES)], number, 5, marks=pytest.mark.slow)


@pytest.mark.parametrize(("schedule", "number", "kills"), list(moments()))
def test_killed_at_random_moments(schedule: str, number: int, kills: int, straight: Any, tmp_path: Path) -> None:
    """Of half of the runs the folder of temporary files is on another disk."""
    more = (f"schedule={schedule}", *SCHEDULES[schedule])
    expected, seconds = straight(schedule)
    elsewhere = {"TMPDIR": str(OTHER_DISK)} if number % 2 == 0 and OTHER_DISK.is_dir() else {}
    draw = random.Random(number)
    for _ in range(kills):
        code = killed(start(tmp_path, *more, environment=elsewhere), draw.uniform(0.1, 1.0) * seconds)
        assert code in (0, -signal.SIGKILL)
    same(numbers(*go_on(tmp_path, *more)), expected)
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("file_bytes", [100, *(pytest.param(n, marks=pytest.mark.slow) for n in (3_000, 50_000))])
def test_a_file_that_cannot_grow_is_one_sentence(file_bytes: int, straight: Any, tmp_path: Path) -> None:
    """The command itself, what it prints going to a pipe: a captured file could not grow either."""
    done = subprocess.run(
        [sys.executable, "-m", "prunebench", *COMMAND, "schedule=finetune", f"paths.outputs={tmp_path}"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes)),
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert "cannot be written (File too large); free space" in printed
    assert "Traceback" not in printed
    same(numbers(*go_on(tmp_path, "schedule=finetune")), straight("finetune")[0])


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of so many kilobytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = f"size={request.param}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [8, 50, 100, 200, 400, 800], indirect=True)
def test_a_disk_that_fills_up(
    small_disk: Path, straight: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run goes on elsewhere, from what fitted."""
    assert ended(start(small_disk, "schedule=finetune")) == SENTENCE
    printed = capfd.readouterr()
    assert "No space left on device" in printed.out
    assert "Traceback" not in printed.out + printed.err
    subprocess.run(["cp", "-r", f"{small_disk}/.", str(tmp_path / "large")], check=True)
    same(numbers(*go_on(tmp_path / "large", "schedule=finetune")), straight("finetune")[0])


def test_a_requeue_signal_ends_the_process_and_nothing_else(
    straight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster Lightning would save in mid-epoch, and go on from there in another way than we do."""
    original = Lit.training_step

    def step(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == "finetune" and self.current_epoch == 0 and batch_idx == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, batch, batch_idx)

    expected, _ = straight("finetune")
    with monkeypatch.context() as patch:
        patch.setattr(Lit, "training_step", step)
        assert ended(start(tmp_path, "schedule=finetune", environment=CLUSTER)) == -signal.SIGUSR1
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    # one that is there all the same is not taken
    (folder,) = tmp_path.glob("runs/*/*/seed_3")
    taken = folder / "phases" / "finetune" / "hpc_ckpt_1.ckpt"
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_bytes(b"")
    assert ended(start(tmp_path, "schedule=finetune", environment=CLUSTER)) == 0
    same(numbers(*go_on(tmp_path, "schedule=finetune")), expected)


@pytest.mark.slow
def test_the_command_itself_killed(straight: Any, tmp_path: Path) -> None:
    """As a user kills it, start of Python and imports included."""
    command = [sys.executable, "-m", "prunebench", *COMMAND, f"paths.outputs={tmp_path}"]
    for seconds in (2, 5, 8, 11):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.kill()
        assert "Traceback" not in process.communicate()[1]
    same(numbers(*go_on(tmp_path, "schedule=finetune")), straight("finetune")[0])
