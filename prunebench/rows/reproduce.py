"""Run what is missing of a paper's table: a process per row and seed, each row once however many work on the table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunebench.errors import UserError, nearest
from prunebench.identity import run_folder
from prunebench.lock import FolderLock
from prunebench.result import is_complete
from prunebench.rows.row import Paper, Row

QUICK = 0.05
"""Share of the paper's epochs that ``budget=quick`` trains, at least one a phase."""


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
        return is_complete(self.folder)

    @property
    def locked(self) -> bool:
        """True while another process works on it."""
        try:
            with FolderLock(self.folder):
                return False
        except UserError:
            return True


def rows_of(paper: Paper, table: str) -> list[Row]:
    """The rows (and arms) of a table that can run.

    Args:
        table: the table's name or the end of it: ``1`` for ``Table 1``; ``all`` for the whole paper.

    Raises:
        UserError: no such table, or none of its rows can run.
    """
    names = sorted({row.table for row in paper.rows})
    wanted = [name for name in names if table == "all" or table in (name, name.removeprefix("Table ").strip())]
    if not wanted:
        raise UserError(f"{paper.name} has no table {table}; it has: {', '.join(names)}{nearest(table, names)}")
    parts = [part for row in paper.rows if row.table in wanted for part in row.parts if part.overrides is not None]
    if not parts:
        reasons = sorted({row.pending or "quoted" for row in paper.rows if row.table in wanted})
        raise UserError(f"no row of {', '.join(wanted)} of {paper.name} can run yet: {'; '.join(reasons)}")
    return parts


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
        quick: train :data:`QUICK` of the epochs; such a run says so in its row and is never compared with the paper.
        overrides: more settings, for example ``trainer.precision=bf16-mixed``.
        configure: arguments -> resolved configuration.
    """
    tasks = []
    for row in rows:
        base = (f"experiment={row.name}", *overrides)
        if quick:
            base = (*base, *_shortened(configure(base)))
        for seed in range(seeds):
            arguments = (*base, f"seed={seed}")
            tasks.append(Task(row, seed, arguments, run_folder(configure(arguments))))
    return tasks


def _shortened(config: dict[str, object]) -> tuple[str, ...]:
    schedule = config["schedule"]
    assert isinstance(schedule, dict)
    return tuple(
        f"schedule.phases.{name}.epochs={max(1, round(phase['epochs'] * QUICK))}"
        for name, phase in schedule["phases"].items()
        if phase["epochs"]
    )


def work(tasks: Sequence[Task], *, say: Callable[[str], None] = print, poll_seconds: float = 5.0) -> list[str]:
    """Run the incomplete ``tasks``, one process each; one that another process works on is waited for.

    Returns:
        A line for each task that failed.
    """
    failed = []
    waiting = [task for task in tasks if not task.complete]
    say(f"{len(tasks) - len(waiting)} of {len(tasks)} runs are complete, {len(waiting)} to do")
    while waiting:
        busy = []
        for task in waiting:
            if task.complete:
                continue
            if task.locked:
                busy.append(task)
                continue
            say(f"== {' '.join(task.arguments)}")
            code = subprocess.run([sys.executable, "-m", "prunebench", *task.arguments]).returncode
            if code and not task.complete:
                if task.locked:  # somebody was faster between the two lines above
                    busy.append(task)
                else:
                    failed.append(f"{task.row.name} seed {task.seed}: exit code {code}, see {task.folder / 'log.txt'}")
        waiting = busy
        if waiting:
            time.sleep(poll_seconds)
    return failed
