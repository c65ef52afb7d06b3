"""Tables, statistics, pictures and the page, all made from the runs' ``result.json`` and the files beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from prunebench.core.result import FILE
from prunebench.disk.atomic import read_json, write_json
from prunebench.errors import UserError, shown
from prunebench.report import (
    collect,
    configurations,
    contests,
    details,
    figures,
    flat,
    guarantees,
    kept_widths,
    leagues,
    page,
    papers,
    sensitivities,
    summaries,
    support,
    tables,
)
from prunebench.report.collect import Collection, LeftOut
from prunebench.report.record import Record
from prunebench.rows import Paper

__all__ = ["Report", "build"]

log = logging.getLogger("prunebench")
_SHOWN = 80  # letters of a name


@dataclass(frozen=True)
class Report:
    """What was written: ``page``, ``tables`` (Markdown, LaTeX, CSV) and ``figures`` (PNG, PDF).

    Attributes:
        undrawn: pairs of data set and model without a picture, because there are too many.
    """

    collection: Collection
    page: Path
    tables: list[Path]
    figures: list[Path]
    undrawn: int


def build(
    runs: Path | None,
    out: Path,
    *,
    published: Path | None = None,
    sensitivity: Path | None = None,
    rows: Sequence[Paper] = (),
    pictures: bool = True,
    advance: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Report:
    """Write the report on all results below ``runs`` and in the open store into ``out``.

    Args:
        runs: usually ``outputs/runs``; a result that cannot be read is listed, the others are shown. None = there are
            none of one's own.
        published: the open store, usually ``outputs/published``.
        sensitivity: what ``scripts/sensitivity.py`` wrote, usually ``outputs/sensitivity``; an absent folder is empty.
        rows: the papers to compare with.
        pictures: also draw the static pictures.
        advance: told (step, done, total) while it works.

    Raises:
        UserError: ``runs`` or ``published`` is no folder.
    """
    collection = collect.collect(runs, lambda done, total: advance("reading results", done, total), published=published)
    looked_at, unread = sensitivities.read(sensitivity)
    collection.left_out.extend(unread)
    source = " and ".join(str(place) for place in (runs, published) if place is not None)

    def attempt(records: Sequence[Record], folder: Path, tell: Callable[[str, int, int], None]) -> Report:
        found = replace(collection, records=list(records), left_out=list(collection.left_out))
        return _write(found, looked_at, source, folder, rows, pictures, tell)

    try:
        return attempt(collection.records, out, advance)
    except Exception:
        breaking = _breaking(collection.records, attempt)
        if not breaking or 1 < len(breaking) == len(collection.records):
            raise  # the folder cannot be written, or the report itself is wrong
    collection.left_out.extend(breaking.values())
    return attempt([record for record in collection.records if record.key not in breaking], out, advance)


def _breaking(records: Sequence[Record], attempt: Callable[..., Report]) -> dict[str, LeftOut]:
    """The records with which alone no report can be made, by key: found by halves, since most of them are good."""
    try:
        with TemporaryDirectory() as folder:
            attempt(records, Path(folder), lambda *at: None)
    except Exception as error:
        if len(records) > 1:
            middle = len(records) // 2
            return _breaking(records[:middle], attempt) | _breaking(records[middle:], attempt)
        reason = f"no report can be made with it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return {record.key: LeftOut(f"{record.place}/{FILE}", reason) for record in records}
    return {}


def _write(
    collection: Collection,
    looked_at: Sequence[sensitivities.Sensitivity],
    source: str,
    out: Path,
    rows: Sequence[Paper],
    pictures: bool,
    advance: Callable[[str, int, int], None],
) -> Report:
    """Everything below ``out``."""
    grouped = configurations.group(collection.records)
    advance("testing pairs", 0, 1)
    tested, untested = leagues.families(grouped)
    advance("testing pairs", 1, 1)
    views = papers.views(rows, grouped, configurations.failures(collection.records))
    written = _write_tables(collection, grouped, tested, views, out / "tables", advance)
    pictured = grouped if pictures else []
    drawn, undrawn = figures.write_figures(pictured, out / "figures", lambda *at: advance("drawing pictures", *at))
    shown, unread = details.details(collection.records)
    collection.left_out.extend(unread)
    path = page.write_page(
        out / "index.html",
        collection=collection,
        drawn=shown,
        groups=grouped,
        views=views,
        sensitivities=looked_at,
        families=tested,
        untested=untested,
        source=source,
        written={path.stem for path in written if path.suffix == ".md"},
    )
    _remove_stale(out, [path, *written, *drawn])
    return Report(collection, path, written, drawn, undrawn)


def _write_tables(
    collection: Collection,
    grouped: Sequence[configurations.Group],
    tested: Sequence[leagues.Family],
    views: Sequence[papers.View],
    folder: Path,
    advance: Callable[[str, int, int], None],
) -> list[Path]:
    made = [summaries.configurations(grouped), contests.comparisons(tested), contests.ranks(tested)]
    made += [support.table(grouped), guarantees.table(grouped), kept_widths.table(grouped, collection)]
    made += [papers.overview(views), papers.rows_run(views)[0]]
    made += [table for view in views for table, _ in view.tables]
    written = [flat.write_runs(collection.records, folder)]
    for done, table in enumerate(made, 1):
        written += tables.write(table, folder) if table.rows else []
        advance("writing tables", done, len(made))
    return written


def _remove_stale(out: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not: a table of runs that are gone would still be believed.

    Only files of the list that the earlier report left are touched.
    """
    listing, names = out / "files.json", sorted(path.relative_to(out).as_posix() for path in written)
    for name in _earlier(listing) - set(names):
        try:
            stale = (out / name).resolve()
            if stale.is_relative_to(out.resolve()) and stale.is_file():
                stale.unlink()
        except (OSError, ValueError) as error:  # it may not be removed, or no file can have such a name
            log.warning("warning: %s of an earlier report stays: %s", shown(name[:_SHOWN]), error)
    write_json(listing, names)


def _earlier(listing: Path) -> set[str]:
    """The names in the list that an earlier report left; none where it is missing or damaged, which is said."""
    try:
        found = read_json(listing) if listing.exists() else []
    except UserError as error:
        log.warning("warning: %s; files of earlier reports stay where they are", error)
        return set()
    if not isinstance(found, list):
        log.warning("warning: %s is no list of files; those of earlier reports stay where they are", listing)
        return set()
    return {name for name in found if isinstance(name, str)}
