"""Reading official files: what is missing, truncated or different is said in one sentence."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from prunebench.errors import UserError


class MissingData(UserError):
    """A data set is not there at all (and so not broken)."""


def not_found(name: str, root: Path, wanted: str) -> MissingData:
    """The error for a data set that is not there.

    Args:
        name: of the data set.
        root: the data folder.
        wanted: which files go where, as the end of the sentence "put ...".
    """
    return MissingData(
        f"{name} is not in the data folder {root}: run `python scripts/data.py get {name}`, set "
        f"paths.download=true, or put {wanted}"
    )


def remedy(name: str, broken: Path) -> str:
    """What to do about a broken file or folder of data set ``name``, as the end of a sentence."""
    return f"remove {broken} and run `python scripts/data.py get {name}`"


def checked(content: bytes, path: Path, advice: str, *, size: int | None = None, md5: str | None = None) -> bytes:
    """``content`` if it has the official length and checksum.

    Args:
        content: what was read from ``path``, unpacked.
        path: only for the message.
        advice: the end of the message.
        size: official length in bytes.
        md5: official checksum.

    Raises:
        UserError: length or checksum differ.
    """
    if size is not None and len(content) != size:
        raise UserError(f"{path} is broken: it has {len(content):,} bytes, the official file {size:,}; {advice}")
    if md5 is not None:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise UserError(f"{path} is not the official file: its md5 is {found}, expected {md5}; {advice}")
    return content


def gunzip(path: Path, advice: str) -> bytes:
    """The unpacked content of a gzip file. Raises UserError, ending in ``advice``, if it is broken."""
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is broken ({error}); {advice}") from error
