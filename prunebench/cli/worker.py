"""One process that has imported everything, from which each job of a sweep is forked: torch is imported once.

A forked job begins where a new process would be after its imports, so that nothing of one job reaches the next: no
environment, seed, thread or memory. That holds as long as nobody computes before the fork, since the threads of OpenMP
and the state of a GPU do not survive it; this module only imports, and is used where there is no GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from prunebench.errors import Terminated

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
    process = _context.Process(target=_job, args=(list(arguments), dict(environment)))
    process.start()
    try:
        process.join()
    except BaseException as error:  # Ctrl-C reaches the job too, which ends its epoch's writing first
        if isinstance(error, Terminated):
            process.terminate()
        process.join()
        raise
    code = process.exitcode
    return 1 if code is None else code


def run_anew(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The same where it must not be forked."""
    process = subprocess.Popen([sys.executable, "-m", "prunebench", *arguments], env=environment)
    try:
        return process.wait()
    except BaseException as error:
        if isinstance(error, Terminated):
            process.terminate()
        process.wait()
        raise


def _job(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    from prunebench.cli.main import main
    from prunebench.errors import program

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["prunebench", *arguments]
    program(lambda: main(arguments))
