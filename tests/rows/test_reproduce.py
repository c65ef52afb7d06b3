"""What is missing of a table is run once; what fails is named; what is busy is waited for."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from prunebench.cli.main import identified
from prunebench.cli.resolve import resolve
from prunebench.core.result import write_result
from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError
from prunebench.report.collect import collect
from prunebench.report.configurations import failures, group
from prunebench.report.papers import views
from prunebench.rows import compose, find, load_papers
from prunebench.rows.reproduce import Task, launch, plan, rows_of, work
from prunebench.run.sweep_record import MARK
from tests.report.factory import make

ROOT = Path(__file__).resolve().parents[2]
(FPGM,) = load_papers(papers=["fpgm"])


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
    """As much of a configuration as decides folder and epochs."""
    given = dict(argument.split("=", 1) for argument in arguments)
    return {
        **{group: {"name": "x"} for group in ("method", "model", "dataset")},
        "arguments": dict(given, seed=None),
        "schedule": {"phases": {"train": {"epochs": 200}, "cut": {"epochs": 0}, "tune": {"epochs": 1}}},
        "trainer": {},
        "paths": {"outputs": given["paths.outputs"]},
        "seed": given.get("seed", 0),
    }


def tasks_in(folder: Path, *, seeds: int = 1, quick: bool = False, rows: int = 2) -> list[Task]:
    found = rows_of(FPGM, "1")[:rows]
    return plan(found, seeds=seeds, quick=quick, overrides=[f"paths.outputs={folder}"], configure=configuration)


def test_a_table_is_named_by_its_number() -> None:
    assert rows_of(FPGM, "1") == rows_of(FPGM, "Table 1")
    assert {row.table for row in rows_of(FPGM, "1")} == {"Table 1"}
    assert all(row.kind != "quoted" for row in rows_of(FPGM, "all"))
    assert rows_of(FPGM, "1", "t1_resnet20_only*") == rows_of(FPGM, "1", "fpgm-t1_resnet20_only*")
    with pytest.raises(UserError, match=r"has no table 9; it has: .*Table 1"):
        rows_of(FPGM, "9")


def test_quick_is_two_epochs_over_a_tenth_of_the_data_and_another_run(tmp_path: Path) -> None:
    (whole, *_), (quick, *_) = tasks_in(tmp_path), tasks_in(tmp_path, quick=True)
    assert [a for a in quick.arguments if "phases" in a] == [
        "schedule.phases.train.epochs=2",
        "schedule.phases.train.epoch_share=0.1",
        "schedule.phases.tune.epochs=1",
        "schedule.phases.tune.epoch_share=0.1",
    ]
    assert whole.folder != quick.folder


def test_quick_shortens_the_phases_of_a_method_too(tmp_path: Path) -> None:
    own = {"name": "x", "search_epochs": 10, "search_epoch_share": None, "ramp_epochs": 5}

    def searching(arguments: Sequence[str]) -> dict[str, Any]:
        return {**configuration(arguments), "method": own}

    rows = rows_of(FPGM, "1")[:1]
    (task,) = plan(rows, seeds=1, quick=True, overrides=[f"paths.outputs={tmp_path}"], configure=searching)
    assert [a for a in task.arguments if a.startswith("method.")] == [
        "method.search_epochs=2",
        "method.search_epoch_share=0.1",
    ]


def finish(task: Task) -> None:
    write_result(task.folder, {"schema": 1, "status": "complete"})


def test_each_is_run_once_and_a_failure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_in(tmp_path, seeds=2)
    assert len({task.folder for task in tasks}) == 4
    finish(tasks[0])
    by_arguments = {task.arguments: task for task in tasks}
    started: list[Task] = []

    def fake(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "prunebench"]
        assert MARK in settings["env"]  # a row that is refused leaves a result
        task = by_arguments[tuple(command[3:])]
        started.append(task)
        if task is tasks[2]:
            return subprocess.CompletedProcess(command, 1)
        finish(task)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    failed = work(tasks, say=lambda text: None)
    assert started == tasks[1:]
    assert len(failed) == 1 and tasks[2].row.name in failed[0]


def test_a_busy_row_is_waited_for_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = tasks_in(tmp_path, rows=1)

    def never(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        raise AssertionError("the row was run twice")

    def other_finishes(seconds: float) -> None:
        finish(task)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(subprocess, "run", never)
    monkeypatch.setattr("time.sleep", other_finishes)
    lock = FolderLock(task.folder)
    lock.__enter__()
    assert work([task], say=lambda text: None) == []


def test_a_folder_that_cannot_be_locked_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_in(tmp_path, rows=1)

    def missing(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(UserError, match="no file locks"):
        work(tasks, say=lambda text: None)


WORKER = """
import pathlib, subprocess, sys
sys.path.insert(0, {root!r})
from tests.rows.test_reproduce import finish, tasks_in
from prunebench.rows.reproduce import work
real = subprocess.run
def fake(command, **settings):
    script = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'a')); time.sleep({seconds})"
    task = next(t for t in tasks if list(t.arguments) == command[3:])
    done = real([sys.executable, "-c", script, str(task.folder / "starts")], **settings)
    finish(task)
    return done
subprocess.run = fake
tasks = tasks_in(pathlib.Path({folder!r}), rows=4)
assert work(tasks, poll_seconds=0.05) == []
"""


def worker(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that works through four rows; each takes ``seconds`` and notes that it was started."""
    code = WORKER.format(root=str(ROOT), folder=str(folder), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)


def starts(folder: Path) -> list[list[int]]:
    return [[int(line) for line in path.read_text().split()] for path in sorted(folder.rglob("starts"))]


def test_two_at_once_do_every_row_once(tmp_path: Path) -> None:
    both = [worker(tmp_path, 0.2) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [len(found) for found in starts(tmp_path)] == [1, 1, 1, 1]


def test_a_row_whose_starter_was_killed_is_not_started_beside_itself(tmp_path: Path) -> None:
    """The run goes on without its parent; the next one waits for it, then runs it, since it left no result."""
    first = worker(tmp_path, 2.0)
    while not any(starts(tmp_path)):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    ((orphan,),) = starts(tmp_path)
    (task, *_) = tasks_in(tmp_path, rows=4)
    assert task.run() is None
    os.kill(orphan, 9)
    assert worker(tmp_path, 0.0).wait() == 0
    assert sorted(len(found) for found in starts(tmp_path)) == [1, 1, 1, 2]


def test_a_launcher_gets_one_sweep_for_rows_with_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_in(tmp_path, seeds=2)
    finish(tasks[0])
    sweeps: list[list[str]] = []

    def fake(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        sweeps.append(command[3:])
        for task in tasks[:3]:
            finish(task)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fake)
    failed = launch("joblib", tasks, ["hydra.launcher.n_jobs=2"])
    names = ",".join(dict.fromkeys(task.row.name for task in tasks))
    given = [f"paths.outputs={tmp_path}", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert sweeps == [["-m", f"experiment={names}", *given]]
    assert len(failed) == 1 and tasks[3].row.name in failed[0] and "seed 1" in failed[0]


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_real_launcher_runs_rows(launcher: str, tmp_path: Path) -> None:
    """Two rows of a table on digits; CI installs joblib's launcher, the others come with the extra ``sweep``."""
    plugin = launcher.split("_")[0]
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"hydra-{plugin}-launcher is not installed")
    rows = rows_of(FPGM, "1", "*resnet20_only*")
    small = ["dataset=digits", "model=lenet300_100", "latency=false", "trainer.progress=false", "trainer.num_threads=1"]

    def resolved(arguments: Sequence[str]) -> dict[str, Any]:
        return identified(resolve(OmegaConf.create(compose(find(arguments[0].split("=", 1)[1]), arguments[1:])))[0])

    overrides = [*small, "schedule.phases.train.epochs=1", f"paths.outputs={tmp_path}"]
    tasks = plan(rows, seeds=1, quick=False, overrides=overrides, configure=resolved)
    assert launch(launcher, tasks) == []
    assert [task.complete for task in tasks] == [True, True]


def test_the_table_shows_the_state_of_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that failed is called so, with its error; it is not one that was never started."""
    spec = importlib.util.spec_from_file_location("reproduce_script", ROOT / "scripts" / "reproduce.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (paper,) = load_papers(papers=["l1norm"])
    where: dict[str, Any] = {"method": "l1norm", "model": "resnet56", "dataset": "cifar10", "schedule": "finetune"}
    names = ["l1norm-t1_resnet56_a", "l1norm-t1_resnet56_b"]
    make(tmp_path, ratio=0.08, row={"id": names[0], "changed": []}, **where)
    make(tmp_path, ratio=0.3, row={"id": names[1], "changed": []}, status="failed", **where)
    records = collect(tmp_path).records
    for view in views([paper], group(records), failures(records)):
        for table, _ in view.tables:
            script.show(table, {*names, "l1norm-t1_vgg16_a"})
    text = " ".join(capsys.readouterr().out.split())
    assert "reproduced" in text and "1 seed" in text and "a claim needs 3" in text
    assert "failed" in text and "not run yet" in text
    assert "Failed for l1norm-t1_resnet56_b seed 0: the loss is not finite in phase finetune, epoch 3" in text
