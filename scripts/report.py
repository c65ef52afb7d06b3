"""Make tables, pictures and the page from all results: python scripts/report.py [--runs outputs/runs].

Published runs (outputs/published) are read beside one's own, and what scripts/sensitivity.py found beside the runs'
folder is drawn. With --readme README.md only the tables between the
markers of that file are written, from published runs alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

from prunebench.errors import Parser, UserError, here, program, refused  # noqa: E402
from prunebench.report import Report, build, readme  # noqa: E402
from prunebench.rows import load_papers  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    outputs = Path(os.environ.get("PRUNEBENCH_OUTPUTS", "outputs"))
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    own, store = outputs / "runs", ROOT / "outputs" / "published"
    parser.add_argument("--runs", type=Path, help=f"folder of the runs ({own})")
    parser.add_argument("--published", type=Path, help=f"the open store ({store}, where it exists)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the tables between the markers of this file")
    parser.add_argument("--out", type=Path, default=outputs / "report", help="folder to write (%(default)s)")
    parser.add_argument("--no-figures", action="store_true", help="leave out the static pictures")
    options = parser.parse_args(arguments)
    published = options.published or (store if store.is_dir() else None)
    # without a run of one's own there is still what is published
    runs = options.runs or (own if own.is_dir() or published is None else None)
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            tasks = {}

            def advance(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = progress.add_task(step)
                progress.update(tasks[step], completed=done, total=total)

            papers = load_papers()
            if options.readme is not None:
                names = readme.write(options.readme, published or store, papers)
                print(f"{options.readme}: {', '.join(names)}")
                return 0
            report = build(
                runs,
                options.out,
                published=published,
                sensitivity=runs.parent / "sensitivity" if runs is not None else None,
                rows=papers,
                pictures=not options.no_figures,
                advance=advance,
            )
    except UserError as error:
        refused(error)
        return 1
    show(report, options.out)
    return 0


def show(report: Report, out: Path) -> None:
    found = report.collection
    left_out = found.left_out_words
    print(f"{len(found.records)} runs are in the report" + (f"; left out: {left_out}" if left_out else ""))
    for item in found.left_out[:10]:
        print(f"  {item.place}: {item.reason}")
    if len(found.left_out) > 10:
        print("  … all of them are listed on the page")
    print(f"page     {report.page} ({report.page.stat().st_size / 1e6:.1f} MB)")
    print(f"tables   {out / 'tables'} ({len(report.tables)} files)")
    more = f", {report.undrawn} data sets and models without a picture" if report.undrawn else ""
    print(f"figures  {out / 'figures'} ({len(report.figures)} files{more})")


if __name__ == "__main__":
    program(main)
