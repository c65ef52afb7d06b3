"""Checksums of many files; those of large folders are kept, so that only what has changed is read again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from prunebench.data.files import unreadable
from prunebench.disk.artifacts import whole
from prunebench.disk.seal import read_with_trailer, write_with_trailer
from prunebench.errors import UserError

log = logging.getLogger("prunebench")
In = TypeVar("In")
Out = TypeVar("Out")

MAX_READ = 1 << 30
"""Bytes that are read every time, in a second or two; of larger folders the checksums are kept."""
SETTLED_NS = 2_000_000_000
"""A file that was changed this shortly before it was read may change again within the same tick of the clock (2 s on
FAT), which nobody would see; it is read again next time."""
_CHUNK = 64  # files that a thread takes at a time: a future for each of a million would take a gigabyte
_KEY, _STATE, _CONTENT = 16, 16, 32  # bytes of a record in the file of checksums that are kept


class _Seen(NamedTuple):
    """A file before it is read: its size, when it was changed, and ``state``, which another content does not have."""

    size: int
    changed_ns: int
    state: bytes


def checksums(folder: Path, names: Sequence[str]) -> list[bytes]:
    """SHA-256 of the content of each file, ``[N]`` of 32 bytes each.

    A file counts as unchanged as long as its size, its inode and both its times are the same: a copy that keeps the
    time of its source (``cp -p``, an archive) still changes the second one, which nobody can set.

    Args:
        folder: in which they are.
        names: their paths below it.

    Raises:
        UserError: one cannot be read.
    """
    started = time.time_ns()
    with ThreadPoolExecutor() as threads:  # reading and hashing let other threads go on
        seen = _each(threads, lambda name: _look(folder / name), names)
        kept = _kept_file(folder) if sum(file.size for file in seen) > MAX_READ else None
        known = {} if kept is None else _read(kept)
        keys = [_short(os.fsencode(name)) for name in names]

        def content(number: int) -> bytes:
            record = known.get(keys[number], b"")
            if record[:_STATE] == seen[number].state:
                return record[_STATE:]
            return _content(folder / names[number])

        found = _each(threads, content, range(len(names)))
    if kept is not None:
        settled = (file.changed_ns + SETTLED_NS < started for file in seen)
        new = {
            key: file.state + checksum
            for key, file, checksum, old_enough in zip(keys, seen, found, settled, strict=True)
            if old_enough
        }
        if not new.items() <= known.items():
            _write(kept, {**known, **new})  # with those of another part of the same folder
    return found


def _each(threads: ThreadPoolExecutor, function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """``function`` of each item, in their order."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    return [one for some in threads.map(lambda chunk: [function(item) for item in chunk], chunks) for one in some]


def _look(path: Path) -> _Seen:
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    facts = (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    return _Seen(found.st_size, max(facts[2:]), _short(repr(facts).encode()))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise unreadable(path, error) from None


def _short(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


# -- the file of checksums


def _kept_file(folder: Path) -> Path | None:
    """Where the checksums of ``folder`` are kept; None for a user without a home folder.

    In the user's folder for caches: the pictures may lie where nobody may write, and all outputs folders share it.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    name = _short(os.fsencode(folder.resolve())).hex()
    return home / "prunebench" / f"pictures-{name}.sums" if home.is_absolute() else None


def _read(path: Path) -> dict[bytes, bytes]:
    """Checksum of the name -> state and checksum of the content; empty if nothing is kept."""
    content = whole(path, lambda: read_with_trailer(path)) or b""
    size = _KEY + _STATE + _CONTENT
    records = (content[start : start + size] for start in range(0, len(content), size))
    return {record[:_KEY]: record[_KEY:] for record in records}


def _write(path: Path, known: dict[bytes, bytes]) -> None:
    try:
        write_with_trailer(path, b"".join(key + record for key, record in known.items()))
    except UserError as error:
        log.warning("warning: all pictures are read again next time: %s", error)
