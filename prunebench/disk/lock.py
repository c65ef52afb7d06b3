"""One writer per folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import TracebackType

from filelock import lock_descriptor

from prunebench.errors import UserError

log = logging.getLogger("prunebench")

POLL_SECONDS = 0.2


class Locked(UserError):
    """Another process holds the lock."""


class FolderLock:
    """An advisory lock on ``folder/<name>``; the kernel drops it when the process ends, however it ends.

    Args:
        folder: made if it does not exist.
        wait: wait for the other writer instead of refusing.
        name: of the file.
        work: what the other writer does, for who waits.
        setting: names the folder, for who may not write there.

    Attributes:
        handle: the open file; a child process that inherits it holds the lock too.

    Raises:
        Locked: another process holds the lock and ``wait`` is false.
        UserError: the folder cannot be written, or its file system has no locks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wait: bool = False,
        name: str = ".lock",
        work: str = "trains the same dense net",
        setting: str = "paths.outputs",
    ) -> None:
        self.folder = folder
        self.wait = wait
        self.name = name
        self.work = work
        self.setting = setting
        self.handle = -1

    def __enter__(self) -> FolderLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.handle = os.open(self.folder / self.name, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._acquire()
            self._sign()
        except BaseException:
            os.close(self.handle)
            raise
        return self

    def _acquire(self) -> None:
        try:
            # a lock of the open file, not of the path: it ends when every process that has the file open has closed it
            if lock_descriptor(self.handle, blocking=False):
                return
            holder = os.pread(self.handle, 64, 0).decode(errors="replace").strip() or "unknown"
            if not self.wait:
                raise Locked(f"{self.folder} is locked by another run (process {holder}); wait for it or change seed")
            log.info("waiting for process %s, which %s in %s", holder, self.work, self.folder)
            lock_descriptor(self.handle, poll_interval=POLL_SECONDS)
        except OSError as error:
            raise UserError(
                f"the file system of {self.folder} has no file locks ({error.strerror}), so two processes could write "
                f"there at once; set {self.setting} to a folder on another one"
            ) from None

    def _sign(self) -> None:
        """Leave this process's number for those who come while the lock is held."""
        try:
            os.truncate(self.handle, 0)
            os.pwrite(self.handle, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"the folder {self.folder} cannot be written ({error}); set {self.setting}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.handle)
