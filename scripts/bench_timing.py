"""Timing in turn, and the tables of ratios, for bench.py."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Times = dict[str, list[float]]
console = Console(width=None if sys.stdout.isatty() else 120)


def paired(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """Seconds of each contender in each round; one more round before them warms up."""
    times: Times = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds + 1):
        for name in order:
            start = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - start)
        order.reverse()
    return {name: seconds[1:] for name, seconds in times.items()}


def show(title: str, times: Times, *, reference: str, more: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Print medians and ratios to ``reference``; ``more``: heading of a column -> contender -> cell."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("median ms", f"time / {reference}", "quartiles", "rounds", *(more or {})):
        table.add_column(heading, justify="right")
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times[reference], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        milliseconds = f"{1e3 * statistics.median(seconds):.1f}"
        cells = [milliseconds, f"{median:.3f}", f"{low:.3f} – {high:.3f}", str(len(ratios))]
        table.add_row(name, *cells, *(column.get(name, "") for column in (more or {}).values()))
    console.print(table, "")
