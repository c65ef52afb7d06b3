"""Files written so that a reader sees the old one or the new one and never a part: bytes, text, JSON, CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.errors import UserError

_UMASK = threading.Lock()
TEMPORARY = ".tmp"
"""Ending of the names of what is being written; such a name begins with a dot."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part of it, also after a power cut.

    The temporary file lies beside ``path``: on another file system its last step would be a copy.

    Raises:
        UserError: the disk is full, or the folder cannot be written; the old file is still there.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as public as the umask says
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"{path} cannot be written ({error.strerror or error}); free space or choose another folder, then the "
                "same command goes on from here"
            ) from error
        raise


def _umask() -> int:
    """Which rights new files do not get. It can only be read by setting it, which two threads must not do at once."""
    with _UMASK:
        found = os.umask(0o077)
        os.umask(found)
    return found


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        UserError: something else is in its place or in that of its folder, or the folder cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written anew ({error.strerror}); take away what is in its place, then the same command "
            "goes on from here"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Put the names in ``folder`` on the disk: without it a power cut may bring back the old file."""
    with contextlib.suppress(OSError):  # some file systems have no such thing; the file itself is safe
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half-written below ``folder``; nobody may be writing there."""
    for left in list(folder.rglob(f".*{TEMPORARY}")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole or not at all, see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON; numbers that are not finite become null, since JSON has no word for them."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it is missing, truncated or not JSON.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # a pipe would be waited for
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to have it written again") from None


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` as CSV; the columns are the union of the rows' keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def plain(value: Any) -> Any:
    """``value`` as it comes back from a JSON file: text as keys, lists, None for numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
