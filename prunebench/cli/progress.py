"""What a sweep says: how far it is, three lines a job, a table of means at the end."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.cli.objective import lines
from prunebench.core.result import in_sessions, read_result, removed
from prunebench.errors import UserError
from prunebench.measure.metrics import HEADLINES, METRICS, NOTHING, Metric
from prunebench.report import configurations, tables
from prunebench.report.record import Pool, Record, from_result

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override, RangeSweep

BRIEF = "PRUNEBENCH_BRIEF"
"""Set in a job of a sweep, see :mod:`prunebench.training.callbacks`, which this module must not wait for."""
MAX_JOBS = 100_000
"""Of one sweep."""
_JOBS = "PRUNEBENCH_SWEEP_JOBS"
"""A file with a line for each job that has begun (its number) or ended (its folder), whichever process ran it."""


def plan(arguments: Sequence[str]) -> tuple[int | None, set[str]]:
    """How many jobs the sweep over ``arguments`` has, and the keys in which they differ.

    The number is None where a sweeper that searches decides it.

    Raises:
        UserError: more than :data:`MAX_JOBS`; Hydra would make a list of all of them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    count: int | None = None if any(word.startswith("hydra/sweeper=") for word in words) else 1
    keys = set()
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            if override.is_sweep_override():
                keys.add(override.key_or_group)
                length = _length(override)
                if (count or 1) * length > MAX_JOBS:
                    raise UserError(
                        f"{word}: a sweep has at most {MAX_JOBS:,} jobs; use a shorter range or a larger step"
                    )
                count = count and count * int(length)
        except HydraException:  # Hydra will say what is wrong with it, or knows the values later
            count = None
    return count, keys


def _length(override: Override) -> float:
    """How many values an override sweeps over; those of a range are not made."""
    from hydra.core.override_parser.types import RangeSweep

    value = override.value()
    return range_length(value) if isinstance(value, RangeSweep) else len(list(override.sweep_string_iterator()))


def range_length(values: RangeSweep) -> float:
    """How many values a range has, infinity if it never ends."""
    start, stop, step = (
        0.0 if number is None else float(number) for number in (values.start, values.stop, values.step)
    )
    steps = (stop - start) / step if step else math.inf
    return max(0, math.ceil(steps)) if math.isfinite(steps) else math.inf


@contextmanager
def sweep(metrics: Sequence[Metric] = (), keys: Collection[str] = (), total: int | None = None) -> Iterator[None]:
    """Afterwards the closing table is printed, over all jobs that have ended, and what a search has found.

    Args:
        metrics: that a search is told. ``keys``: in which its jobs differ. ``total``: see :func:`plan`.
    """
    with tempfile.TemporaryDirectory(prefix="prunebench-sweep-") as folder:
        path = Path(folder) / "jobs"
        os.environ[_JOBS] = str(path)
        try:
            yield
        finally:
            del os.environ[_JOBS]
            records = ended(path)
            show(records, outcome(path, records, total))
            complete = [record for record in records if record.status != "failed"]
            if metrics and complete:
                print(*lines([read_result(record.folder) for record in complete], metrics, keys), sep="\n")


def begin(number: int, total: int | None, words: Sequence[str], *, started: float, trained: int) -> None:
    """The first line of a job.

    Args:
        number: of the job, from 0. ``total``: see :func:`plan`.
        started: when this process began its first job (``time.monotonic``). ``trained``: jobs that it has run since.
    """
    _write(number)
    of = f"{number + 1}" if total is None else f"{number + 1} of {total}"
    left = ""
    if trained and total is not None:
        left = f", {spoken((time.monotonic() - started) / trained * (total - number))} left"
    print(f"\n{of}{left}: {' '.join(words)}", flush=True)


def end(folder: Path, result: Mapping[str, Any], *, again: bool = False) -> None:
    """The two other lines: what came of it and where it lies; ``again`` if it was complete before."""
    final = result["metrics"]["final"]
    found = [metric for metric in HEADLINES if metric.key in final]
    shown = [f"{metric.label} {metric.show(final[metric.key])}{metric.unit.mark}" for metric in found]
    said = ", ".join([*shown, removed(result["cost"]), spoken(result["run"]["seconds"]) + in_sessions(result["run"])])
    print(f"  {'already ' if again else ''}{result['status']}: {said}")
    print(f"  {folder}", flush=True)
    note(folder)


def note(folder: Path) -> None:
    """The job of the run in ``folder`` has ended, with or without numbers."""
    _write(str(folder))


def _write(line: int | str) -> None:
    path = os.environ.get(_JOBS)
    # a job on a cluster may be on another machine, or outlive the command that has queued it: no table waits for it
    if path and Path(path).parent.is_dir():
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _jobs(path: Path) -> tuple[set[int], list[str]]:
    """Of a file of jobs: the numbers of those that have begun, and a folder for each that has ended."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return {line for line in lines if isinstance(line, int)}, [line for line in lines if isinstance(line, str)]


def outcome(path: Path, records: Sequence[Record], total: int | None) -> str:
    """What became of the jobs that were asked for, in words; nothing where none has ended or was interrupted.

    Args:
        path: of the file of jobs. ``records``: what :func:`ended` has found in it. ``total``: see :func:`plan`.
    """
    begun, folders = _jobs(path)
    runs, again = len(records), len(folders) - len({*folders})  # two jobs may ask for the same run
    failed = len(configurations.failures(records))
    interrupted = max(0, len(begun) - len(folders))
    if not runs and not interrupted:
        return ""
    asked = None if total is None else total - again
    rest = {
        "failed": failed,
        "interrupted": interrupted,
        "without a result": len({*folders}) - runs,
        "not started": 0 if total is None else max(0, total - max(len(begun), len(folders))),
    }
    all_ended = runs == (runs if asked is None else asked) and not interrupted
    head = f"{runs} of {asked} runs" if asked is not None and not all_ended else f"{runs} run{'s' * (runs != 1)}"
    return ", ".join([head, *(f"{n} {what}" for what, n in rest.items() if n or (all_ended and what == "failed"))])


def ended(path: Path) -> list[Record]:
    """The results of the jobs that the file names, without those that have none."""
    pool, found = Pool(), []
    for folder in map(Path, dict.fromkeys(_jobs(path)[1])):
        try:
            found.append(from_result(read_result(folder), folder, folder.name, pool))
        except UserError:
            continue  # it was refused before anything could be written; its line has said so
    return found


def show(records: Sequence[Record], title: str) -> None:
    """Mean ± sample standard deviation over the distinct nets of each configuration, the best first.

    Args:
        title: what became of all jobs, see :func:`outcome`; nothing is shown without.
    """
    if not title:
        return
    groups = configurations.group(records)
    columns = [metric for metric in HEADLINES if any(g.estimate(f"final.{metric.key}") for g in groups)]
    table = Table(title=title, title_justify="left")
    heads = ["", "nets", *(metric.column for metric in columns), "MACs −%", "params −%"]
    masked = ["zeros %"] if any(item.masked for item in groups) else []
    for i, name in enumerate([*heads, *masked]):
        table.add_column(Text(name), justify="right" if i else "left", no_wrap=bool(i))
    best = columns[0] if columns else None
    for item in sorted(groups, key=lambda g: _rank(g, best)):
        names = dict.fromkeys((item.name, item.first.model, item.first.dataset, item.first.schedule))
        cells = [tables.over_seeds(metric, item.estimate(f"final.{metric.key}")).text for metric in columns]
        gone = [tables.mean(METRICS[key], item.estimate(key)).text for key in ("macs_removed", "params_removed")]
        gone += [f"{100 * item.masked:.1f}" for _ in masked]
        again = "*" if item.repeated else ""
        table.add_row(*map(Text, (" · ".join(names), f"{len(item.records)}{again}", *cells, *gone)))
    console = Console()
    console.print()
    console.print(table if groups else title)
    _show_failures(console, configurations.failures(records))
    if any(item.repeated for item in groups):
        console.print("* seeds that end with the same net are one sample")
    if masked:
        console.print("zeros: share of the parameters that are zero but still there")


def _show_failures(console: Console, failed: Sequence[Record]) -> None:
    """A line for each configuration and reason."""
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for record in failed:
        reason = (record.error or "no reason").partition("\n")[0]
        seeds.setdefault((record.method, record.model, reason), []).append(str(record.seed))
    for (method, model, error), found in seeds.items():
        console.print(Text(f"failed: {method} · {model}, seed {', '.join(found)}: {error}"))


def _rank(item: configurations.Group, metric: Any) -> float:
    found = item.estimate(f"final.{metric.key}") if metric else None
    if found is None:
        return float("inf")
    return -found.mean if metric.better == "higher" else found.mean


def spoken(seconds: float | None) -> str:
    """A time as one says it: 40 s, 12 min, 3.5 h."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
