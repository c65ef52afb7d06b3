"""One process that has imported everything, from which each job of a sweep is forked: torch is imported once.

A forked job begins where a new process would be after its imports, so that nothing of one job reaches the next: no
environment, seed, thread or memory. That holds as long as nobody computes before the fork, since the threads of OpenMP
and the state of a GPU do not survive it; this module only imports, and is used where there is no GPU.

A job ends with the process that waits for it, however that one ends. A cluster's warning that the time is nearly up is
for that process alone, though the cluster may send it to all: a launcher answers it by queueing again, which would be
too late if the job had already ended and so seemed to have failed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from prunebench.core.processes import end_with

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2) if hasattr(signal, "SIGUSR1") else ()
_GPU = Path("/dev/nvidiactl")
_context: ForkServerContext | None = None


def fits(trainer: Mapping[str, Any]) -> bool:
    """Whether jobs with these settings may be forked: on Linux, without a GPU, one process a job.

    Where a launcher has brought its own way to start processes (joblib's loky), ours would be told to use that.
    """
    usual = (None, *multiprocessing.get_all_start_methods())
    ours = multiprocessing.get_start_method(allow_none=True) in usual
    return ours and sys.platform == "linux" and not _GPU.exists() and trainer["devices"] == 1


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """``python -m prunebench <arguments>`` in a process of its own; its exit code."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload([f"{__name__}_imports"])
    process = _context.Process(target=_forked, args=(list(arguments), dict(environment)))
    process.start()
    try:
        process.join()
    except BaseException as error:
        if not _told(error):
            process.terminate()
        process.join()
        raise
    code = process.exitcode
    return 1 if code is None else code


def run_anew(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The same where it must not be forked."""
    command = [sys.executable, "-m", __name__, *arguments]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        try:
            return process.wait()
        except BaseException as error:
            if not _told(error):
                process.terminate()
            process.wait()
            raise


def _told(error: BaseException) -> bool:
    """Whether what ends the waiting has reached the job too: Ctrl-C, after which it ends its epoch's writing first.

    SIGTERM, or what a launcher raises to queue again, has reached the waiting process alone.
    """
    return type(error) is KeyboardInterrupt


def leave_warnings() -> None:
    """Leave the signals that announce the end of the time to the process that waits for this one."""
    for number in _WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def _forked(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    os.environ.clear()
    os.environ.update(environment)
    _job(arguments, waiting=parent.sentinel)


def _job(arguments: Sequence[str], *, waiting: int) -> None:
    from prunebench.cli.main import main
    from prunebench.errors import program

    end_with(waiting)
    sys.argv = ["prunebench", *arguments]
    program(lambda: main(arguments))


if __name__ == "__main__":
    leave_warnings()
    _job(sys.argv[1:], waiting=sys.stdin.fileno())
