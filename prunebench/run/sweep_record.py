"""What a job of a sweep leaves that was refused before its run began.

A single command that is refused says why and writes nothing. In a sweep nobody may be watching: there the job becomes
a ``failed`` result with its error, which the next start replaces. Where the data could not be read, the run's id is
without their content, so that the result lies in a folder of its own; it goes when the same command finds its data.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunebench.config.identity import run_folder
from prunebench.core.result import FILE, is_complete, read_result, write_result
from prunebench.disk.atomic import write_text
from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError, in_words
from prunebench.run.logs import FOR_THE_FILE, held, log_file
from prunebench.run.provenance import head, now

log = logging.getLogger("prunebench")
MARK = "PRUNEBENCH_SWEEP_JOB"


def job_environment() -> dict[str, str]:
    """The environment of a process that is one job of many."""
    return {**os.environ, MARK: "1"}


@contextlib.contextmanager
def recorded(config: Mapping[str, Any], config_text: str, folder: Path) -> Iterator[list[logging.LogRecord]]:
    """In a job of a sweep: an error inside becomes the run's result. It is raised in any case.

    Nothing is written where another process holds the folder, or has completed the run.

    Args:
        config: the resolved configuration; ``config_text`` is the same as YAML.
        folder: of the run.

    Yields:
        What is said inside, for the run's log.
    """
    with held() as said:
        try:
            yield said
        except Exception as error:
            if os.environ.get(MARK):
                # a folder that is locked or cannot be written is left alone; the error is printed all the same
                with contextlib.suppress(UserError), FolderLock(folder):
                    if not is_complete(folder):
                        write_failure(config, config_text, folder, error, said)
            raise


def forget_missing_data(config: Mapping[str, Any]) -> None:
    """Remove the failed result that the same run has left when its data could not be read; nothing if they still can't.

    Args:
        config: with what its data are, see :func:`prunebench.run.assemble.identified`.
    """
    if not config.get("data"):
        return
    folder = run_folder({key: value for key, value in config.items() if key != "data"})
    if not (folder / FILE).exists():
        return
    try:
        with FolderLock(folder):
            if read_result(folder)["status"] != "failed":
                return
            shutil.rmtree(folder)
    except (UserError, OSError) as error:  # another process holds it, or it cannot be read or written
        log.warning("warning: the failed run in %s stays, though its data are there now: %s", folder, error)
        return
    with contextlib.suppress(OSError):  # other runs are there
        for parent in folder.parents[:2]:  # of the id and of the method
            parent.rmdir()


def write_failure(
    config: Mapping[str, Any],
    config_text: str,
    folder: Path,
    error: Exception,
    said: list[logging.LogRecord],
) -> None:
    """Write ``result.json``, ``config.yaml`` and ``log.txt`` of a run that was refused; its folder is locked."""
    write_text(folder / "config.yaml", config_text)
    with log_file(folder, said):
        log.error("failed: %s", in_words(error), extra=FOR_THE_FILE)
    found = head(config, folder)
    found["run"] |= {"finished": now(), "seconds": 0.0}
    detail = "".join(traceback.format_exception(error))
    write_result(folder, {**found, "error": in_words(error), "traceback": detail})
