"""Reading official files: what is missing, truncated or different is said in one sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from prunebench.errors import UserError

UNREADABLE = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError),
    *(tarfile.TarError, zipfile.BadZipFile),
    *(NotImplementedError, RuntimeError, ValueError, KeyError),
)
"""What the readers of damaged or foreign archives raise: a compression or a password that they do not know is one."""
MAX_UNPACKED = 1 << 30
"""Bytes of an unpacked file; the largest official one has 153,700,000."""


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


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for somebody's own file or folder that cannot be read."""
    return UserError(f"{utf8(path)} cannot be read ({error.strerror or error}); repair it or take it away")


def utf8(path: str | Path) -> str:
    """A path as it can be printed and written: the byte ff, which is no UTF-8, as ``\\udcff``."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def remedy(name: str, broken: Path) -> str:
    """What to do about a broken file or folder of data set ``name``, as the end of a sentence."""
    return f"remove {broken} and run `python scripts/data.py get {name}`"


def checked(
    content: bytes,
    path: Path,
    advice: str,
    *,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
) -> bytes:
    """``content`` if it has the official length and checksum.

    Args:
        content: what was read from ``path``.
        path: only for the message.
        advice: the end of the message.
        size: official length in bytes.
        md5, sha256: official checksums.

    Raises:
        UserError: length or checksum differ.
    """
    if size is not None and len(content) != size:
        raise UserError(f"{path} is broken: it has {len(content):,} bytes, the official file {size:,}; {advice}")
    for kind, expected in (("md5", md5), ("sha256", sha256)):
        found = hashlib.new(kind, content, usedforsecurity=False).hexdigest() if expected else None
        if found != expected:
            raise UserError(f"{path} is not the official file: its {kind} is {found}, expected {expected}; {advice}")
    return content


def gunzip(path: Path, advice: str) -> bytes:
    """The unpacked content of a gzip file. Raises UserError, ending in ``advice``, if it is broken."""
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_UNPACKED + 1)
    except UNREADABLE as error:
        raise UserError(f"{path} is broken ({error}); {advice}") from error
    if len(content) > MAX_UNPACKED:
        raise UserError(f"{path} is broken (it unpacks to more than {MAX_UNPACKED:,} bytes); {advice}")
    return content


def unzip(content: bytes, path: Path, member: str, advice: str) -> bytes:
    """One file of the zip ``content``, which was read from ``path``. Raises as :func:`gunzip`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(member).file_size > MAX_UNPACKED:
                raise ValueError(f"{member} has more than {MAX_UNPACKED:,} bytes")
            return archive.read(member)
    except UNREADABLE as error:
        raise UserError(f"{path} is broken ({error}); {advice}") from error
