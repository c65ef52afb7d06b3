"""Any local files as one text of bytes; by default the source code of Python's own standard library."""

from __future__ import annotations

import errno
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prunebench.config.arguments import validated
from prunebench.config.ranges import Range
from prunebench.data.files import MissingData
from prunebench.data.text import Text, TextData, split
from prunebench.disk.paths import data_path
from prunebench.errors import UserError


@validated
class ByteFiles(TextData):
    """Files put one behind the other; 90 % of the bytes train, 5 % validate, 5 % test.

    Args:
        files: paths, absolute or below ``paths.data``, in this order. Empty = the modules directly in the standard
            library's folder, by name: real text that is on every machine, another one for each version of Python.
        max_bytes: only so many bytes from the beginning; null = all.
        **common: the arguments of :class:`~prunebench.data.text.TextData`.
    """

    def __init__(
        self, *, files: Sequence[str], max_bytes: Annotated[int, Range(low=100)] | None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.files, self.max_bytes = list(files), max_bytes

    def fetch(self, root: Path) -> None:
        """Nothing to do: the files are local."""

    def read(self, root: Path) -> Text:
        paths = [data_path(path, root) for path in self.files] or standard_library()
        pieces, size = [], 0
        for path in paths:
            if self.max_bytes is not None and size >= self.max_bytes:
                break
            try:
                if path.exists() and not path.is_file():
                    raise IsADirectoryError(errno.EISDIR, "it is no file")
                pieces.append(path.read_bytes())
            except OSError as error:
                raise MissingData(
                    f"{self.name} is not in the data folder {root}: {path} of dataset.files cannot be read "
                    f"({error.strerror}); its paths are absolute, below that folder, or from where Python was started"
                ) from None
            size += len(pieces[-1])
        content = b"".join(pieces)[: self.max_bytes]
        if len(content) < 100:
            raise UserError(f"the text of {self.name} has {len(content)} bytes; give longer files in dataset.files")
        return split(content)


def standard_library() -> list[Path]:
    """The modules directly in the standard library's folder, sorted by name."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: path.name)
