"""What a finished run prints: its numbers in tables, its warnings, the paper's numbers beside its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.core.asked import beside
from prunebench.core.result import in_integers, in_sessions, points_summary, removed, shown_stages, summary
from prunebench.errors import UserError
from prunebench.rows import find
from prunebench.rows.compare import describe


def show(result: Mapping[str, Any]) -> None:
    """Print the closing table: the numbers of each stage, and those of each operating point if there are some."""
    run_, cost = result["run"], result["cost"]
    names = " · ".join(result[key]["name"] for key in ("method", "model", "dataset", "schedule"))
    head = ["", *(stage.label for stage in shown_stages(result))]
    console = Console()
    console.print(_table(f"{names} · seed {run_['seed']}", head, [[label, *cells] for label, cells in summary(result)]))
    if result.get("points"):
        console.print(_table("operating points of the trained net", *points_summary(result)))
    console.print(f"{removed(cost)}, status {result['status']}, {run_['seconds']:.0f} s{in_sessions(run_)}")
    for line in (*beside(result.get("budget") or {}), *in_integers(result)):
        console.print(Text(line))
    for line in result.get("warnings") or ():
        console.print(Text(f"warning: {line}", style="bold red"))
    for line in beside_the_paper(result):
        print(line)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal; the words of a result are no markup."""
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for i, column in enumerate(head):
        table.add_column(Text(column), justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def beside_the_paper(result: Mapping[str, Any]) -> list[str]:
    """The run's row of a paper, if it has one: the paper's values, ours, the difference."""
    if not result.get("row"):
        return []
    try:
        return describe(result, find(result["row"]))
    except UserError as error:  # a stored result may be of a row that has been renamed since
        return [f"row {result['row']}: {error}"]
