"""How long something takes that may be stopped and gone on with: the seconds of all its sessions."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from prunebench.disk.seal import Damaged, read_value, write_value
from prunebench.errors import UserError

log = logging.getLogger("prunebench")
BEAT = 10.0
"""Seconds between two notes; a process that is killed loses no more of its time."""


class Stopwatch:
    """Runs inside a ``with``; what it shows counts the sessions before, which its file knows.

    Attributes:
        sessions: how many there have been, this one among them.

    Args:
        path: of the file, which one process writes.
        after: what the work starts from; the time of other work is not counted.
    """

    def __init__(self, path: Path, *, after: str = "") -> None:
        self.path, self.after = path, after
        self.sessions = 1
        self._before = 0.0
        self._begun = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="stopwatch", daemon=True)

    @property
    def seconds(self) -> float:
        """So far, over all sessions."""
        return self._before + time.perf_counter() - self._begun

    def read(self) -> dict[str, float]:
        """What it shows: ``seconds`` and ``sessions``."""
        return {"seconds": self.seconds, "sessions": self.sessions}

    def __enter__(self) -> Self:
        try:
            known = read_value(self.path, after=self.after)
            self.sessions, self._before = known["sessions"] + 1, known["seconds"]
        except Damaged as error:
            if self.path.exists():
                log.warning("warning: %s; the time of earlier sessions is not counted", error)
        self._begun = time.perf_counter()
        self._note()  # a session that is killed at once is one, too
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._note()

    def _note(self) -> None:
        with contextlib.suppress(UserError):  # a full disk; the work itself says so
            write_value(self.path, self.read(), after=self.after)
