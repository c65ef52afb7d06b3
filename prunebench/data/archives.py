"""Unpacking archives from the web: the official ones, plain files and folders only, nothing outside, all or nothing.

What came out is written down beside it (``.<member>.sha256``), so that a file that changes later is noticed, also where
no official checksum of it is known.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from prunebench.data.files import UNREADABLE
from prunebench.disk.atomic import read_json, write_json
from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError


def unpack(archive: Path, root: Path, member: str, *, md5: str) -> Path:
    """Unpack ``archive`` and give its top-level ``member`` (a folder or a file) the name ``root / member``.

    Args:
        archive: a .tar.gz or .zip file.
        root: where ``member`` goes; the rest of the archive is dropped.
        member: name at the top of the archive.
        md5: official checksum of the archive.

    Returns:
        ``root / member``; if it was there already, nothing is done.

    Raises:
        UserError: the archive is damaged or not the official one, names a path outside, holds a link or a device, or
            lacks ``member``; nothing is left behind then.
    """
    final = root / member
    if final.exists():
        return final
    lock = FolderLock(
        root, wait=True, name=f".{member}.lock", work="unpacks the same archive", setting="PRUNEBENCH_DATA"
    )
    with lock, tempfile.TemporaryDirectory(prefix=".unpack-", dir=root) as scratch:
        if final.exists():  # since a moment ago, by another process
            return final
        _check_sum(archive, md5)
        try:
            if zipfile.is_zipfile(archive):
                _unzip(archive, scratch)
            else:
                _untar(archive, scratch)
        except UserError:
            raise
        except UNREADABLE as error:
            raise UserError(f"{archive} cannot be unpacked ({error}); remove it and download it again") from error
        if not (Path(scratch) / member).exists():
            raise UserError(f"{archive} does not contain {member}; it is not the official archive")
        write_json(_record(final), sums(Path(scratch) / member))
        os.replace(Path(scratch) / member, final)
    return final


def sums(place: Path) -> dict[str, str]:
    """SHA-256 of each file below the folder ``place`` by its path there; of a file, under its own name."""
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    found = {}
    for path in files:
        with path.open("rb") as file:
            name = path.relative_to(place).as_posix() if place.is_dir() else place.name
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def check_unpacked(place: Path, advice: str) -> None:
    """Compare what :func:`unpack` has put at ``place`` with what came out then; what came otherwise is left alone.

    Raises:
        UserError: a file has changed or is gone; ends in ``advice``.
    """
    if not _record(place).exists():
        return
    written, now = read_json(_record(place)), sums(place)
    if not isinstance(written, dict):
        raise UserError(f"{_record(place)} is no list of checksums; {advice}")
    if wrong := [name for name in written if now.get(name) != written[name]]:
        raise UserError(f"{place} is not what was unpacked: {wrong[0]} has changed or is gone; {advice}")


def _record(place: Path) -> Path:
    return place.with_name(f".{place.name}.sha256")


def _check_sum(archive: Path, md5: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{archive} is not the official file: its md5 is {found}, expected {md5}; remove it and download it again"
        )


def _untar(archive: Path, folder: str) -> None:
    with tarfile.open(archive) as tar:
        for item in tar.getmembers():
            _check(archive, item.name, plain=item.isfile() or item.isdir())
        tar.extractall(folder, filter="data")  # a second fence: it refuses the same and drops odd permissions


def _unzip(archive: Path, folder: str) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for item in bundle.infolist():
            kind = stat.S_IFMT(item.external_attr >> 16)  # 0 where the writer was no Unix
            _check(archive, item.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        bundle.extractall(folder)


def _check(archive: Path, name: str, *, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UserError(f"{archive} is refused: it names the unsafe path {name!r}; nothing was unpacked")
    if not plain:
        raise UserError(f"{archive} is refused: {name!r} is a link or a device; nothing was unpacked")
