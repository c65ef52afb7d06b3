"""What a run says, in ``log.txt`` of its folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from prunebench.errors import UserError

log = logging.getLogger("prunebench")
FILE = "log.txt"
FOR_THE_FILE = {"for_the_file": True}
"""``extra`` of what only ``log.txt`` shall hold, since whoever has started the run says it too."""


def for_the_screen(record: logging.LogRecord) -> bool:
    """A handler's filter, see :data:`FOR_THE_FILE`."""
    return not getattr(record, "for_the_file", False)


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _File(logging.FileHandler):
    """Stops where the disk is full: what cannot be written is on the screen, and the run itself says why it ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing."""


@contextlib.contextmanager
def held() -> Iterator[list[logging.LogRecord]]:
    """What is said before the run has a folder, for :func:`log_file`."""
    handler = _Keep()
    log.addHandler(handler)
    try:
        yield handler.records
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def log_file(folder: Path, before: Iterable[logging.LogRecord] = ()) -> Iterator[None]:
    """Everything that is said inside also goes to ``log.txt``, after what was said ``before``.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        handler = _File(folder / FILE, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder / FILE} cannot be written ({error.strerror}); take away what is there") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for record in before:
        handler.handle(record)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # what was left to be written
            handler.close()
