"""One writer per folder."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from types import TracebackType

from prunebench.errors import UserError

log = logging.getLogger("prunebench")


class FolderLock:
    """An advisory lock on ``folder/<name>``; the kernel drops it when the process ends, however it ends.

    Args:
        folder: made if it does not exist.
        wait: wait for the other writer (shared pretraining) instead of refusing.
        name: of the file.

    Attributes:
        handle: the open file; a child process that inherits it holds the lock too.

    Raises:
        UserError: the folder cannot be written, or another process holds the lock and ``wait`` is false.
    """

    def __init__(self, folder: Path, *, wait: bool = False, name: str = ".lock") -> None:
        self.folder = folder
        self.wait = wait
        self.name = name
        self.handle = -1

    def __enter__(self) -> FolderLock:
        path = self.folder / self.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"the output folder {self.folder} cannot be written ({error}); set paths.outputs") from None
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.handle, 64, 0).decode(errors="replace").strip() or "unknown"
            if not self.wait:
                os.close(self.handle)
                raise UserError(
                    f"{self.folder} is locked by another run (process {holder}); wait for it or change seed"
                ) from None
            log.info("waiting for process %s, which trains the same dense net in %s", holder, self.folder)
            fcntl.flock(self.handle, fcntl.LOCK_EX)
        os.truncate(self.handle, 0)
        os.pwrite(self.handle, str(os.getpid()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.handle)
