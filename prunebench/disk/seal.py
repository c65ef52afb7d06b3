"""Checksums of texts, JSON values and files; and files that carry their own. No torch: reports read them too.

They also hold ``after``: a text that names what the content was made from (the weights that a measurement was made
with, say). A file that is whole, but was made from something else, is no more believed than a damaged one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.disk.atomic import plain, write_bytes, write_json

KEY = "sha256"
_TRAILER = b"\nsha256 "
_TRAILER_BYTES = len(_TRAILER) + 64


class Damaged(Exception):
    """What is stored cannot be read, or is not what was written; the text says which file and why."""


def text_sha256(*parts: str) -> str:
    """Checksum of texts and their order, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Checksum of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """Checksum of plain JSON data, whatever the order of its keys."""
    return text_sha256(json.dumps(plain(value), sort_keys=True))


# -- JSON


def write_value(path: Path, value: Any, *, after: str = "", beside: Mapping[str, str] | None = None) -> None:
    """Write ``value`` as JSON with its checksum.

    Args:
        beside: name -> checksum of files in the same folder that belong to the value.
    """
    content = {"after": after, "value": plain(value), "beside": dict(beside or {})}
    write_json(path, {KEY: value_sha256(content), **content})


def read_value(path: Path, *, after: str | None = None) -> Any:
    """The value in ``path``; the files beside it that belong to it are checked too.

    Raises:
        Damaged: it is missing, something in it or beside it was changed, or it was made from something else.
    """
    try:
        content = dict(json.loads(path.read_bytes()))
        same = content.pop(KEY) == value_sha256(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__})") from None
    check_seal(path, same, content.get("after"), after)
    check_files(path.parent, content["beside"])
    return content["value"]


def check_seal(path: Path, same: bool, made_from: Any, after: str | None) -> None:
    """What a reader of ``path`` has found: the checksum fits, and what the content was made from.

    Raises:
        Damaged: it does not fit, or the content was made from something else than ``after``.
    """
    if not same:
        raise Damaged(f"{path} is not what was written")
    if after is not None and made_from != after:
        raise Damaged(f"{path} was made from something else")


def check_files(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare files with their checksums.

    Args:
        sums: path below ``folder`` -> checksum.

    Raises:
        Damaged: one is missing or differs.
    """
    for name, expected in sums.items():
        try:
            same = file_sha256(folder / name) == expected
        except OSError as error:
            raise Damaged(f"{folder / name} cannot be read ({type(error).__name__})") from None
        if not same:
            raise Damaged(f"{folder / name} is not what was written")


# -- bytes of a format that others read


def write_with_trailer(path: Path, content: bytes, *, after: str = "") -> None:
    """Write ``content`` with its checksum behind it; readers of zip files, torch's among them, pass over it."""
    write_bytes(path, content + _TRAILER + _trailing(content, after))


def read_with_trailer(path: Path, *, after: str = "") -> bytes:
    """The content in ``path``.

    Raises:
        Damaged: it is missing or not what was written.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__})") from None
    content, trailer = whole[:-_TRAILER_BYTES], whole[-_TRAILER_BYTES:]
    if trailer != _TRAILER + _trailing(content, after):
        raise Damaged(f"{path} is not what was written")
    return content


def _trailing(content: bytes, after: str) -> bytes:
    whole = hashlib.sha256(after.encode())
    whole.update(content)
    return whole.hexdigest().encode()
