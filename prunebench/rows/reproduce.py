"""Run what is missing of a paper's table: a process per row and seed, each row once however many work on the table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from prunebench.config.identity import run_folder
from prunebench.core.result import is_complete
from prunebench.disk.lock import FolderLock, Locked
from prunebench.errors import UserError, nearest
from prunebench.rows.row import Paper, Row
from prunebench.run.sweep_record import job_environment

QUICK = {"epochs": 2, "epoch_share": 0.1}
"""``budget=quick``: at most so many epochs a phase (a method's own too), each over such a share of the training set."""
CLAIM = ".claim"
"""Locked in a run's folder while somebody works through a table and is at this row."""


@dataclass(frozen=True)
class Task:
    """One row and seed.

    Attributes:
        arguments: of ``python -m prunebench``. ``folder``: where its result will lie.
    """

    row: Row
    seed: int
    arguments: tuple[str, ...]
    folder: Path

    @property
    def complete(self) -> bool:
        """True if its result is there."""
        return is_complete(self.folder)

    @property
    def locked(self) -> bool:
        """True while a run of it is in progress."""
        try:
            with FolderLock(self.folder):
                return False
        except Locked:
            return True

    def run(self) -> int | None:
        """Run it in its own process, whose exit code is returned; None if another process works on it.

        The child holds the claim too: if this process is killed, nobody starts the row again before its run ends.
        """
        claim = FolderLock(self.folder, name=CLAIM)
        try:
            claim.__enter__()
        except Locked:
            return None
        try:
            if self.complete:
                return 0
            if self.locked:
                return None
            command = [sys.executable, "-m", "prunebench", *self.arguments]
            return subprocess.run(command, pass_fds=[claim.handle], env=job_environment()).returncode
        finally:
            claim.__exit__(None, None, None)


def rows_of(paper: Paper, table: str, pattern: str = "*") -> list[Row]:
    """The rows (and arms) of a table that can run.

    Args:
        table: the table's name or the end of it: ``1`` for ``Table 1``; ``all`` for the whole paper.
        pattern: of the names of the rows, with ``*`` and ``?``; the paper in front of a name may be left out.

    Raises:
        UserError: no such table, none of its rows can run, or none of these fits the pattern.
    """
    names = sorted({row.table for row in paper.rows})
    wanted = [name for name in names if table == "all" or table in (name, name.removeprefix("Table ").strip())]
    if not wanted:
        raise UserError(f"{paper.name} has no table {table}; it has: {', '.join(names)}{nearest(table, names)}")
    parts = [part for row in paper.rows if row.table in wanted for part in row.parts if part.overrides is not None]
    if not parts:
        reasons = sorted({row.pending or "quoted" for row in paper.rows if row.table in wanted})
        raise UserError(f"no row of {', '.join(wanted)} of {paper.name} can run yet: {'; '.join(reasons)}")
    patterns = (pattern, f"{paper.name}-{pattern}")
    chosen = [part for part in parts if any(fnmatchcase(part.name, one) for one in patterns)]
    if not chosen:
        raise UserError(f"rows={pattern} fits none of {', '.join(part.name for part in parts)}")
    return chosen


def plan(
    rows: Iterable[Row],
    *,
    seeds: int,
    quick: bool,
    overrides: Sequence[str],
    configure: Callable[[Sequence[str]], dict[str, object]],
) -> list[Task]:
    """All tasks of ``rows``.

    Args:
        seeds: number of seeds, 0 to seeds - 1.
        quick: shorten the training to :data:`QUICK`; the row says so and is never compared with the paper.
        overrides: more settings, for example ``trainer.precision=bf16-mixed``.
        configure: arguments -> resolved configuration.
    """
    tasks = []
    for row in rows:
        base = (f"experiment={row.name}", *overrides)
        if quick:  # what the user asks for comes last and wins
            base = (base[0], *_shortened(configure(base)), *overrides)
        for seed in range(seeds):
            arguments = (*base, f"seed={seed}")
            tasks.append(Task(row, seed, arguments, run_folder(configure(arguments))))
    return tasks


def _shortened(config: dict[str, object]) -> tuple[str, ...]:
    """Overrides that shorten the schedule's phases, and those of a method's own: ``<phase>_epochs`` with a share."""
    schedule, method = config["schedule"], config["method"]
    assert isinstance(schedule, dict) and isinstance(method, dict)
    lengths = {f"schedule.phases.{name}.epoch": phase["epochs"] for name, phase in schedule["phases"].items()}
    own = [key.removesuffix("s") for key in method if key.endswith("_epochs") and f"{key[:-1]}_share" in method]
    lengths |= {f"method.{key}": method[f"{key}s"] for key in own}
    found = []
    for place, epochs in lengths.items():
        if epochs:
            found += [f"{place}s={min(QUICK['epochs'], epochs)}", f"{place}_share={QUICK['epoch_share']}"]
    return tuple(found)


def work(
    tasks: Sequence[Task],
    *,
    start: Callable[[Task], int | None] = Task.run,
    say: Callable[[str], None] = print,
    poll_seconds: float = 5.0,
) -> list[str]:
    """Run the incomplete ``tasks``, one process each; one that another process works on is waited for.

    Args:
        start: runs a task; returns its exit code, or None if another process works on it.

    Returns:
        A line for each task that failed.
    """
    failed = []
    waiting = [task for task in tasks if not task.complete]
    say(f"{len(tasks) - len(waiting)} of {len(tasks)} runs are complete, {len(waiting)} to do")
    while waiting:
        busy = []
        for number, task in enumerate(waiting, 1):
            if task.complete:
                continue
            say(f"== {number} of {len(waiting)}: {' '.join(task.arguments)}")
            code = start(task)
            if code is None:
                say("another process works on it")
                busy.append(task)
            elif not task.complete:
                failed.append(f"{task.row.name} seed {task.seed}: exit code {code}, see {task.folder / 'log.txt'}")
        waiting = busy
        if waiting:
            time.sleep(poll_seconds)
    return failed


def launch(
    launcher: str, tasks: Sequence[Task], settings: Sequence[str] = (), *, poll_seconds: float = 5.0
) -> list[str]:
    """Run the incomplete ``tasks`` as sweeps through a Hydra launcher, rows with the same settings in one sweep.

    Args:
        launcher: option of the config group ``hydra/launcher``: basic, joblib, submitit_local, submitit_slurm or ray.
        settings: of the launcher, ``hydra.launcher.<key>=<value>``.

    Returns:
        A line for each task that failed.
    """
    waiting, failed = [task for task in tasks if not task.complete], []
    while waiting:
        sweeps: dict[tuple[str, ...], list[Task]] = {}
        for task in waiting:
            sweeps.setdefault(task.arguments[1:-1], []).append(task)  # without experiment= and seed=
        for arguments, chosen in sweeps.items():
            names = ",".join(dict.fromkeys(task.row.name for task in chosen))
            seeds = ",".join(str(seed) for seed in sorted({task.seed for task in chosen}))
            sweep = ["-m", f"experiment={names}", *arguments, f"seed={seeds}", f"hydra/launcher={launcher}", *settings]
            code = subprocess.run([sys.executable, "-m", "prunebench", *sweep], env=job_environment()).returncode
            failed += [
                f"{task.row.name} seed {task.seed}: the sweep ended with exit code {code}, see {task.folder}"
                for task in chosen
                if not task.complete and not task.locked
            ]
        # those that another process works on are looked at again when it is done
        waiting = [task for task in waiting if task.locked]
        if waiting:
            time.sleep(poll_seconds)
    return failed
