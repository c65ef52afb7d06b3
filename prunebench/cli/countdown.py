"""How far a long piece of work is, and how long it will take: a bar, or without a terminal a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prunebench.cli.progress import spoken

T = TypeVar("T")
QUIET_SECONDS = 10.0
"""Without a terminal a line is written at most so often."""


def with_time_left(items: Sequence[T], what: str) -> Iterator[T]:
    """The ``items`` one after the other; meanwhile the errors' stream says how many are done, and the time left.

    Args:
        what: the items are, in one or two words.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items)
        return
    begun = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= QUIET_SECONDS:
            said = now
            left = (now - begun) / done * (len(items) - done)
            print(f"{done} of {len(items)} {what}, {spoken(left)} left", file=sys.stderr, flush=True)
        yield item
