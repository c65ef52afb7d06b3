"""The papers' rows: what they are, and whether they are right.

    python scripts/rows.py list                      every row: its experiment, what it reports, from where
    python scripts/rows.py list fpgm l1norm          of these papers
    python scripts/rows.py list --status runnable    runnable, pending or quoted ones
    python scripts/rows.py check                     cells that contradict each other; each row that can run is
                                                     composed, built and cut, and its counts compared with the paper's
    python scripts/rows.py check --sample 20         so many of these, drawn at random; --seed 1 draws others

Check ends with exit code 1 if a row cannot be composed, a cell contradicts others and the row does not say so, or a
count differs by more than 1 % without a reason.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from prunebench import rows
from prunebench.cli.countdown import with_time_left
from prunebench.errors import Parser, UserError, here, program, refused
from prunebench.rows import Row
from prunebench.rows.counting import LIMIT, Count
from prunebench.rows.fields import KINDS
from prunebench.rows.verify import verify


def list_rows(found: Sequence[Row], status: str | None) -> int:
    shown = [row for row in found if status in (None, row.status)]
    if shown:
        heads = (
            f"{'row':<60}",
            f"{'status':<8}",
            f"{'kind':<8}",
            "accuracy",
            "MACs removed",
            "table: setting (source)",
        )
        print("  ".join(heads))
    for row in shown:
        for part in row.parts:
            accuracy = part.value("accuracy")
            accuracy = part.value("dense_accuracy") if accuracy is None else accuracy
            removed = part.value("macs_removed")
            cells = [
                f"{part.name:<60}",
                f"{row.status:<8}",
                f"{row.kind:<8}",
                "       –" if accuracy is None else f"{100 * accuracy:6.2f} %",
                "           –" if removed is None else f"{100 * removed:10.1f} %",
                f"{row.table}: {row.setting} ({row.mark})" if row.setting else f"{row.table} ({row.mark})",
            ]
            print("  ".join(cells))
    print("; ".join(f"{kind} = {meaning.partition(';')[0]}" for kind, meaning in KINDS.items()))
    print(f"{len(shown)} rows, {sum(part.overrides is not None for row in shown for part in row.parts)} runs")
    return 0


def check_rows(found: Sequence[Row], sample: int | None = None, seed: int = 0) -> int:
    """Print what is wrong with the rows; the exit code.

    Args:
        sample: so many of the rows that run are composed and counted, drawn with ``seed``; None = all.
    """
    print("Cells that contradict each other:")
    contradictions = rows.check_derived(found)
    for contradiction in contradictions:
        print(f"  {contradiction}: {contradiction.note or 'NOT KNOWN TO THE ROW'}")
    parts = [part for row in found for part in row.parts if part.overrides is not None]
    if sample is not None and sample < len(parts):
        drawn = sorted(random.Random(seed).sample(range(len(parts)), sample))
        print(
            f"\nA sample: {sample} of {len(parts)} rows that run, drawn with seed {seed}; the others are not looked at"
        )
        parts = [parts[index] for index in drawn]
    counts: list[Count] = []
    broken: list[str] = []
    for part in with_time_left(parts, "rows that run"):
        try:
            counts += verify(part).counts
        except UserError as error:
            broken.append(f"{part.name}: {error}")
    print(f"\n{len(counts)} published counts of {len({c.row for c in counts})} runs; beyond {LIMIT:.0%}:")
    for count in counts:
        if count.differs:
            head = f"  {count.row}: {count.what} {count.published:.6g} in the paper, {count.ours:.6g} here"
            print(f"{head} ({count.difference:+.1%}): {count.note or 'NO REASON GIVEN'}")
    for text in broken:
        print(f"  cannot run: {text}")
    unknown = any(count.unexplained for count in counts) or any(one.note is None for one in contradictions)
    return 1 if broken or unknown else 0


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["list", "check"])
    parser.add_argument("papers", nargs="*", help="names of files in conf/rows; none = all")
    parser.add_argument("--status", choices=["runnable", "pending", "quoted"])
    parser.add_argument("--sample", type=int, metavar="N", help="check so many of the rows that run; default: all")
    parser.add_argument("--seed", type=int, default=0, help="which ones --sample draws (default: 0)")
    given = parser.parse_args(arguments)
    if given.sample is not None and given.command != "check":
        parser.error("--sample belongs to check")
    if given.sample is not None and given.sample < 1:
        parser.error(f"--sample must be at least 1, got {given.sample}")
    try:
        papers = [name.removeprefix("paper=") for name in given.papers]  # as reproduce.py has them
        found = rows.load(papers=papers or None)
        if given.command == "list":
            return list_rows(found, given.status)
        return check_rows(found, given.sample, given.seed)
    except UserError as error:
        refused(error)
        return 1


if __name__ == "__main__":
    program(main)
