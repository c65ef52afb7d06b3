"""Paths as users write them."""

from __future__ import annotations

import errno
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prunebench.errors import UserError

_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
_SHOWN = 60


def local(source: str) -> str:
    """The path in a ``file://`` URL; any other source as it is.

    Raises:
        UserError: it is no URL.
    """
    try:
        parts = urlsplit(source) if "://" in source else None
    except ValueError as error:
        raise UserError(f"{source} is no URL ({error})") from None
    return url2pathname(parts.path) if parts is not None and parts.scheme == "file" else source


def make_folder(path: Path) -> None:
    """Make ``path`` and all above it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made ({error.strerror}); give another one") from None


def data_path(text: str | Path, root: Path) -> Path:
    """The path of somebody's own data: below the data folder ``root``, else from where Python was started.

    Raises:
        UserError: as :func:`user_path`.
    """
    path = user_path(text)
    below = Path(root) / path
    return path.absolute() if path.exists() and not below.exists() else below


def user_path(text: str | Path) -> Path:
    """The path that ``text`` means; ``~`` is a home folder. Nothing need be there.

    Raises:
        UserError: no file can have that path: it is empty, of an unknown user, too long, a circle of links, or holds
            a NUL.
    """
    try:
        if not str(text):
            raise ValueError("it is empty")
        path = Path(text).expanduser()
        if "\0" in str(path):
            raise ValueError("it holds a NUL")
        path.stat()
    except (ValueError, RuntimeError, OSError) as error:
        # what is not there, or may not be seen, is told by whoever reads it
        if isinstance(error, OSError) and error.errno not in _NO_PATH:
            return path
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        shown = str(text) if len(str(text)) <= _SHOWN else f"{str(text)[:_SHOWN]}…"
        raise UserError(f"{shown!r} is no path of a file or folder ({reason})") from None
    return path
