"""Results as plain rows: what ``prunebench.results`` gives, and the file with all runs."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from prunebench.disk.paths import make_folder
from prunebench.report.collect import collect
from prunebench.report.record import Record
from prunebench.report.tables import csv_text

_WORDS = ("method", "model", "dataset", "schedule", "row", "status", "id", "place")


def results(folder: str | PathLike[str] = "outputs/runs") -> Any:
    """All results below ``folder`` as one table: a row for each run, failed ones included.

    Columns: ``method``, ``model``, ``dataset``, ``schedule``, ``row`` (of a paper), ``status``, ``id`` (of the
    configuration, the same for all seeds), ``place``, ``seed``, ``published``, ``started``, ``error``, ``net``
    (checksum of the final net: runs with the same one are one sample), ``interval_low`` and ``interval_high`` (exact,
    95 %, of the final accuracy), every setting under its dotted key (``method.prune_ratio``, ``phases.finetune.lr``),
    and every measured number under its own (``final.accuracy``, ``macs_removed``); shares are fractions, times ms or s.

    Returns:
        A ``pandas.DataFrame`` where pandas is installed, else a list of dicts, which any table takes. What a run does
        not have is absent (NaN in the frame).

    Raises:
        UserError: ``folder`` is none.
    """
    found = collect(Path(folder))
    if found.left_out:
        first = found.left_out[0]
        said = f"{len(found.left_out)} results are left out, for example {first.place}: {first.reason}"
        warnings.warn(said, stacklevel=2)
    rows = [flat(record) for record in found.records]
    if importlib.util.find_spec("pandas") is None:
        return rows
    return importlib.import_module("pandas").DataFrame(rows)  # nothing here needs it, so it is no dependency


def flat(record: Record) -> dict[str, Any]:
    """One run as a row; nothing in it is nested."""
    low, high = record.interval or (None, None)
    head: dict[str, Any] = {
        **{word: getattr(record, word) for word in _WORDS},
        "seed": record.seed,
        "published": record.published,
        "started": record.started,
        "error": record.error,
        "net": record.net,
        "interval_low": low,
        "interval_high": high,
    }
    settings = {key: value for key, value in record.settings.items() if key not in head and not key.endswith(".name")}
    return {key: value for key, value in {**head, **settings, **record.numbers}.items() if value not in (None, "")}


def write_runs(records: Sequence[Record], folder: Path) -> Path:
    """``runs.csv``: a line for each run.

    Of the settings it has those of the groups in which runs differ; all of them stand in ``configurations.csv``.
    """
    rows = [flat(record) for record in records]
    columns: dict[str, dict[str, None]] = {}
    for row in rows:
        for key, value in row.items():
            found = columns.setdefault(key, {})
            if len(found) < 2:
                found[str(value)] = None
    settings = {key for record in records for key in record.settings}
    shown = [key for key, found in columns.items() if key not in settings or (_of_group(key) and len(found) > 1)]
    make_folder(folder)
    path = folder / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([key.replace(".", "_") for key in shown])
        for row in rows:
            writer.writerow([_plain(row.get(key)) for key in shown])
    return path


def _of_group(key: str) -> bool:
    return key.startswith(("method.", "model.", "dataset."))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return csv_text(value)
    return int(value) if isinstance(value, bool) else value
