"""Downloads: several addresses tried in turn, interrupted ones go on, nothing unchecked takes its final name.

Nothing here is called unless somebody asked for a download.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pooch
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError

TIMEOUT = 30  # seconds without an answer
TRIES = 3  # per address, as long as each brings some bytes
BLOCK = 1 << 18  # bytes read at once
MIRROR = "PRUNEBENCH_MIRROR"


@dataclass(frozen=True)
class Remote:
    """One official file.

    Attributes:
        path: where it lies below the data folder, and below a mirror.
        bases: addresses of the folders that hold it, tried in this order.
        checksum: ``"md5:..."`` or ``"sha256:..."``, hex digits; where only the first ones are known, these.
    """

    path: str
    bases: tuple[str, ...]
    checksum: str

    def urls(self) -> list[str]:
        """Where to look. A mirror ($PRUNEBENCH_MIRROR) has the layout of the data folder."""
        if mirror := os.environ.get(MIRROR):
            return [f"{mirror.rstrip('/')}/{self.path}"]
        return [f"{base.rstrip('/')}/{Path(self.path).name}" for base in self.bases]


def fetch(remote: Remote, root: Path) -> Path:
    """Download ``remote`` to ``root / remote.path``, unless it is there already.

    The bytes go to ``<file>.part``, where a later call finds them and asks only for the rest; the file gets its
    name after its checksum was found right.

    Args:
        remote: what to download.
        root: the data folder; made if needed.

    Returns:
        The path of the file.

    Raises:
        UserError: no address gave the file, its checksum is wrong (then nothing is left), or ``root`` cannot
            be written.
    """
    target = root / remote.path
    if not target.exists():
        # two runs of a sweep may want the same file
        name, work = f"{target.name}.lock", "downloads the same file"
        with FolderLock(target.parent, wait=True, name=name, work=work, setting="PRUNEBENCH_DATA"):
            if not target.exists():
                _fetch(remote, target)
    if not _has(target, remote.checksum):
        raise UserError(f"{target} is not the official file ({remote.checksum}); remove it and run again")
    return target


def _has(path: Path, checksum: str) -> bool:
    algorithm, expected = checksum.split(":")
    return bool(pooch.file_hash(str(path), alg=algorithm).startswith(expected))


def _fetch(remote: Remote, target: Path) -> None:
    pooch.get_logger().setLevel("ERROR")  # we say ourselves what happens
    part = target.with_name(target.name + ".part")
    reasons = []
    for url in remote.urls():
        try:
            pooch.retrieve(
                url=url,
                known_hash=None,
                fname=target.name,
                path=target.parent,
                downloader=_Resuming(part, remote.checksum),
            )
            return
        except _Another:
            reasons.append(f"{url} has another checksum than {remote.checksum}")
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise UserError(
        f"{target.name} could not be downloaded ({'; '.join(reasons)}); "
        f"run again to go on, or put the official file into {target.parent} yourself"
    )


class _Another(Exception):
    """The file behind an address is not the official one."""


class _Resuming:
    """A downloader for pooch that keeps what it got in ``part`` until the file is whole and has the ``checksum``."""

    def __init__(self, part: Path, checksum: str) -> None:
        self.part = part
        self.checksum = checksum

    def __call__(self, url: str, output_file: str, _pooch: Any, check_only: bool = False) -> None:
        for attempt in range(TRIES):
            before = _size(self.part)
            try:
                _stream(url, self.part)
                break
            except (OSError, http.client.HTTPException):
                if attempt == TRIES - 1 or _size(self.part) <= before:
                    raise
        if not _has(self.part, self.checksum):
            self.part.unlink()
            raise _Another
        os.replace(self.part, output_file)


def _stream(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``. Raises ConnectionError if the answer ends too early."""
    have = _size(part)
    headers = {"User-Agent": "prunebench"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            # "range not satisfiable" because nothing is lacking: the last run ended just before the renaming
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                return
            if error.code != 416 or not have:
                raise
        part.unlink()  # no beginning of the file: start anew
        _stream(url, part)
        return
    with response:
        resumed = getattr(response, "status", None) == 206  # a server may ignore the range and send all
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with part.open("ab" if resumed else "wb") as sink:
            _copy(response, sink, name=part.stem, start=start, total=total)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _copy(source: IO[bytes], sink: IO[bytes], *, name: str, start: int, total: int | None) -> None:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(TextColumn(name), *columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=start)
        while block := source.read(BLOCK):
            sink.write(block)
            progress.advance(task, len(block))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
