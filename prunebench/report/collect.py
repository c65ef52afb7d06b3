"""Find and read every result below a folder; what cannot be read is named, the rest is kept."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prunebench.core.result import FILE, read_result
from prunebench.errors import UserError
from prunebench.report.record import Pool, Record, from_result
from prunebench.report.schema import MAX_BYTES

CONFIG, LOG = "config.yaml", "log.txt"
"""What a run writes before its result."""
LOG_END = 4096
"""Bytes of a log in which its last line is looked for."""


@dataclass(frozen=True)
class LeftOut:
    """A result that is not in the report, and why.

    Attributes:
        repeats: it is the run and seed of another one that is in the report; False = it cannot be used.
    """

    place: str
    reason: str
    repeats: bool = False


@dataclass(frozen=True)
class Unfinished:
    """A run without a result: it runs, or was interrupted.

    Attributes:
        place: below the folder of all runs. ``written``: when its log was last written. ``said``: the log's last line.
    """

    place: str
    written: str
    said: str


@dataclass(frozen=True)
class Collection:
    """All runs of a report, in the order method, model, dataset, schedule, MACs removed, id, seed.

    Attributes:
        left_out: unreadable, foreign and repeated results. A run of the user's that is published too is neither.
        unfinished: one's own runs without a result.
        pool: values that the records' ``facts`` name by number.
    """

    records: list[Record] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    pool: Pool = field(default_factory=Pool)

    @property
    def left_out_words(self) -> str:
        """How many files are left out for which reason; empty if none is."""
        repeated = sum(item.repeats for item in self.left_out)
        unreadable = len(self.left_out) - repeated
        words = [f"{unreadable} file{'s' if unreadable != 1 else ''} could not be used"] if unreadable else []
        words += (
            [f"{repeated} result{'s repeat' if repeated != 1 else ' repeats'} a run of the report"] if repeated else []
        )
        return ", ".join(words)


def find(runs: Path) -> list[Path]:
    """Folders below ``runs`` that hold a result, sorted; hidden folders are passed over, links are followed once."""
    return [folder for folder, ended in _found(runs) if ended]


def _found(runs: Path) -> list[tuple[Path, bool]]:
    """Run folders below ``runs``, sorted, and whether they hold a result."""
    return sorted(_walk(runs, {os.path.realpath(runs)}))


def _walk(folder: Path, seen: set[str]) -> Iterator[tuple[Path, bool]]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return  # a folder without permission holds nothing for this reader
    names = {entry.name for entry in listed}
    if FILE in names or {CONFIG, LOG} <= names:
        yield folder, FILE in names
        return  # a run folder holds no other runs
    for entry in listed:
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        real = os.path.realpath(entry.path)
        if real not in seen:
            seen.add(real)
            yield from _walk(Path(entry.path), seen)


def _unfinished(folder: Path, place: str) -> Unfinished:
    """What the log of the run says last; the log is a stranger's file, of which no more than its end is read."""
    try:
        with (folder / LOG).open("rb") as file:
            written = datetime.datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, datetime.UTC)
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_END))
            lines = file.read(LOG_END).decode(errors="replace").split("\n")
    except OSError as error:
        return Unfinished(place, "", f"the log cannot be read ({error.strerror})")
    said = next((line for line in reversed(lines) if line.strip()), "")
    return Unfinished(place, written.strftime("%Y-%m-%d %H:%M UTC"), said[:300])


def collect(
    runs: Path | None,
    advance: Callable[[int, int], None] = lambda done, total: None,
    *,
    published: Path | None = None,
) -> Collection:
    """Read all results below ``runs`` and in the open store.

    Args:
        runs: usually ``outputs/runs``; None = only what is published.
        published: the open store, usually ``outputs/published``.
        advance: told (files read, files found) after each file.

    Raises:
        UserError: one of the two is not a folder.
    """
    collection = Collection()
    found: dict[str, Record] = {}
    folders = [(root, *found) for root in (published, runs) if root is not None for found in _found(_folder(root))]
    for done, (root, folder, ended) in enumerate(folders, 1):
        place = _plain(folder.relative_to(root).as_posix())
        vouched = root is published
        if not ended:
            collection.unfinished.append(_unfinished(folder, place))
            continue
        if vouched:
            place = f"published/{place}"
        try:
            record = from_result(_read(folder), folder, place, collection.pool, published=vouched)
        except (UserError, RecursionError) as error:
            collection.left_out.append(LeftOut(f"{place}/{FILE}", _reason(error, folder)))
        else:
            _keep(record, found, collection.left_out)
        advance(done, len(folders))
    collection.records.extend(sorted(found.values(), key=_order))
    return collection


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder of the runs, usually --runs outputs/runs")
    return path


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is no file of at most {MAX_BYTES:,} bytes")
    return read_result(folder)


def _plain(text: str) -> str:
    """Without what cannot be written: names of files may hold any bytes."""
    return text.encode(errors="replace").decode()


def _order(r: Record) -> tuple[str | float, ...]:
    return r.method, r.model, r.dataset, r.schedule, r.numbers.get("macs_removed", 0.0), r.id, r.seed


def _keep(record: Record, found: dict[str, Record], left_out: list[LeftOut]) -> None:
    """One run counts once: of two copies the measured one stays, then the published one, then the later one."""
    other = found.get(record.key)
    if other is None:
        found[record.key] = record
        return
    same = (other.started, other.numbers) == (record.started, record.numbers)
    if other.published and not record.published and same:
        # the user's own folder of a published run has curves and predictions too
        facts = {name: number for name, number in other.facts.items() if name == "published"}
        found[record.key] = replace(record, published=True, facts={**record.facts, **facts})
        return
    first, second = sorted((other, record), key=lambda r: (r.measured, r.published, r.started, r.place))
    found[record.key] = second
    left_out.append(LeftOut(f"{first.place}/{FILE}", f"the same run and seed as {second.place}, which is used", True))


def _reason(error: Exception, folder: Path) -> str:
    # the place is shown beside the reason
    reason = " ".join(str(error).replace(f"{folder / FILE} ", "", 1).split()) or type(error).__name__
    return _plain(reason)
