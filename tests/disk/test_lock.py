"""A folder has one writer; whoever comes second is told who it is, and a dead writer leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench.disk.lock import FolderLock, Locked
from prunebench.errors import UserError

HOLDER = """
import pathlib, sys, time
from prunebench.disk.lock import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of ``folder`` until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_one_writer_per_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(Locked, match=f"locked by another run .process {os.getpid()}"):
        FolderLock(tmp_path).__enter__()
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_another_process_is_named_and_leaves_no_lock_when_it_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(Locked, match=f"locked by another run .process {process.pid}"):
        FolderLock(tmp_path).__enter__()
    kill(process)
    with FolderLock(tmp_path):
        pass


def test_who_waits_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = holder(tmp_path)
    said: list[str] = []

    class Kill(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            kill(process)

    monkeypatch.setattr(logging.getLogger("prunebench"), "handlers", [Kill()])
    caplog.set_level(logging.INFO, logger="prunebench")
    with FolderLock(tmp_path, wait=True):
        assert said == [f"waiting for process {process.pid}, which trains the same dense net in {tmp_path}"]
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_child_that_inherits_the_file_holds_the_lock_too(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock.handle], text=True
        )
    with pytest.raises(Locked):
        FolderLock(tmp_path).__enter__()
    kill(child)
    with FolderLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*set paths\.outputs"):
        FolderLock(tmp_path / "file" / "run").__enter__()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        FolderLock(tmp_path).__enter__()


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, wait: bool
) -> None:
    def missing(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)
    lock = FolderLock(tmp_path, wait=wait, setting="PRUNEBENCH_DATA")
    with pytest.raises(
        UserError, match=rf"no file locks \({re.escape(os.strerror(code))}\).* set PRUNEBENCH_DATA"
    ) as found:
        lock.__enter__()
    assert not isinstance(found.value, Locked)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock.handle)
