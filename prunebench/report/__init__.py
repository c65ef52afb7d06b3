"""Tables, statistics, pictures and the page, all made from the runs' ``result.json`` and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunebench.disk.atomic import read_json, write_json
from prunebench.report import (
    collect,
    configurations,
    contests,
    figures,
    guarantees,
    leagues,
    page,
    papers,
    summaries,
    support,
    tables,
)
from prunebench.rows import Paper

__all__ = ["Report", "build"]


@dataclass(frozen=True)
class Report:
    """What was written: ``page``, ``tables`` (Markdown, LaTeX, CSV) and ``figures`` (PNG, PDF).

    Attributes:
        undrawn: pairs of data set and model without a picture, because there are too many.
    """

    collection: collect.Collection
    page: Path
    tables: list[Path]
    figures: list[Path]
    undrawn: int


def build(
    runs: Path | None,
    out: Path,
    *,
    published: Path | None = None,
    rows: Sequence[Paper] = (),
    pictures: bool = True,
    advance: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Report:
    """Write the report on all results below ``runs`` and in the open store into ``out``.

    Args:
        runs: usually ``outputs/runs``; a result that cannot be read is listed, the others are shown. None = there are
            none of one's own.
        published: the open store, usually ``outputs/published``.
        rows: the papers to compare with.
        pictures: also draw the static pictures.
        advance: told (step, done, total) while it works.

    Raises:
        UserError: ``runs`` or ``published`` is no folder.
    """
    collection = collect.collect(runs, lambda done, total: advance("reading results", done, total), published=published)
    grouped = configurations.group(collection.records)
    advance("testing pairs", 0, 1)
    tested, untested = leagues.families(grouped)
    advance("testing pairs", 1, 1)
    views = papers.views(rows, grouped, configurations.failures(collection.records))
    made = [summaries.configurations(grouped), contests.comparisons(tested), contests.ranks(tested)]
    made += [
        support.table(grouped),
        guarantees.table(grouped),
        papers.overview(views),
        papers.rows_run(views)[0],
    ]
    made += [table for view in views for table, _ in view.tables]
    # thousands of lines with all numbers: for programs, not for readers
    written = tables.write(summaries.runs(collection.records), out / "tables", [".csv"])
    for done, table in enumerate(made, 1):
        written += tables.write(table, out / "tables") if table.rows else []
        advance("writing tables", done, len(made))
    pictured = grouped if pictures else []
    drawn, undrawn = figures.write_figures(pictured, out / "figures", lambda *at: advance("drawing pictures", *at))
    path = page.write_page(
        out / "index.html",
        collection=collection,
        groups=grouped,
        views=views,
        families=tested,
        untested=untested,
        source=" and ".join(str(place) for place in (runs, published) if place is not None),
    )
    _remove_stale(out, [path, *written, *drawn])
    return Report(collection, path, written, drawn, undrawn)


def _remove_stale(out: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not: a table of runs that are gone would still be believed.

    Only files of the list that the earlier report left are touched.
    """
    listing, names = out / "files.json", sorted(path.relative_to(out).as_posix() for path in written)
    earlier = read_json(listing) if listing.exists() else []
    for name in {str(name) for name in earlier} - set(names):
        stale = (out / name).resolve()
        if stale.is_relative_to(out.resolve()):
            stale.unlink(missing_ok=True)
    write_json(listing, names)
