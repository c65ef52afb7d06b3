"""A process that nobody waits for any more ends."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import wait


def end_with(sentinel: int) -> None:
    """From now on this process ends, with exit code 1, as soon as ``sentinel`` can be read.

    Args:
        sentinel: a pipe's end, whose other end only the process that started this one holds and never writes to: it
            closes with that process, also after SIGKILL.
    """
    threading.Thread(target=_end, args=(sentinel,), daemon=True).start()


def _end(sentinel: int) -> None:
    wait([sentinel])
    # without clean-up, which would wait for others; what is on disk was replaced as a whole or not at all
    os._exit(1)
