"""Unpacking archives from the web: plain files and folders only, nothing outside, all or nothing."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError


def unpack(archive: Path, root: Path, member: str) -> Path:
    """Unpack ``archive`` and give its top-level ``member`` (a folder or a file) the name ``root / member``.

    Args:
        archive: a .tar.gz or .zip file.
        root: where ``member`` goes; the rest of the archive is dropped.
        member: name at the top of the archive.

    Returns:
        ``root / member``; if it was there already, nothing is done.

    Raises:
        UserError: the archive is damaged, names a path outside, holds a link or a device, or lacks ``member``;
            nothing is left behind then.
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
        try:
            if zipfile.is_zipfile(archive):
                _unzip(archive, scratch)
            else:
                _untar(archive, scratch)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise UserError(f"{archive} cannot be unpacked ({error}); remove it and download it again") from error
        if not (Path(scratch) / member).exists():
            raise UserError(f"{archive} does not contain {member}; it is not the official archive")
        os.replace(Path(scratch) / member, final)
    return final


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
