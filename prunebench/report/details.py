"""What the page draws for single runs: learning curves from ``metrics.csv``, reliability from ``predictions.npz``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunebench.errors import UserError
from prunebench.report.collect import LeftOut
from prunebench.report.predictions import NAME as PREDICTIONS
from prunebench.report.predictions import read_predictions
from prunebench.report.record import Record

HISTORY = "metrics.csv"
MAX_BYTES = 1 << 26
"""Of a run's history; 10,000 epochs with 20 numbers each have a tenth of it."""

MAX_RUNS = 400
"""So many runs have curves and a reliability diagram on the page: those of paper rows first, then the newest."""
MAX_POINTS = 80
"""A longer phase is drawn with so many of its epochs, evenly spread, the first and the last among them."""
NUM_BINS = 15
_SKIPPED = ("phase", "epoch", "seconds")


def chosen(records: Sequence[Record]) -> list[Record]:
    """The runs that get curves and a reliability diagram."""
    measured = [record for record in records if record.measured]
    return sorted(measured, key=lambda r: (r.row is not None, r.started, r.key), reverse=True)[:MAX_RUNS]


def details(records: Sequence[Record]) -> tuple[dict[str, Any], list[LeftOut]]:
    """Curves and bins of the chosen runs by key, and the files that could not be read, with the reason."""
    made: dict[str, Any] = {}
    left_out: list[LeftOut] = []
    for record in chosen(records):
        found: dict[str, Any] = {"curves": [], "bins": None}
        for name, file, read in (("curves", HISTORY, curves), ("bins", PREDICTIONS, reliability)):
            try:
                found[name] = read(record)
            except UserError as error:
                place = f"{record.place}/{file}"
                left_out.append(LeftOut(place, str(error).removeprefix(f"{place} ")))
        made[record.key] = found
    return made, left_out


def curves(record: Record) -> list[dict[str, Any]]:
    """Per phase: ``phase``, ``epochs`` (0-based) and ``series`` (name → one value or null per epoch).

    A missing file gives none and a value that is no number a gap, since ``metrics.csv`` only illustrates the result.

    Raises:
        UserError: it is no table with a line for each epoch.
    """
    path = record.folder / HISTORY
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise UserError(f"no file of at most {MAX_BYTES:,} bytes")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{record.place}/{HISTORY} cannot be read ({error})") from None
    phases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not row.get("phase") or _value(row.get("epoch")) is None or None in row:
            raise UserError(f"{record.place}/{HISTORY} is no table with phase and epoch in each line")
        phases.setdefault(row["phase"], []).append(row)
    return [_curve(name, found) for name, found in phases.items()]


def _curve(phase: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kept = [rows[i] for i in spread(len(rows))]
    names = [name for name in kept[0] if name and name not in _SKIPPED]
    series = {name: [_value(row.get(name)) for row in kept] for name in names}
    return {
        "phase": phase,
        "epochs": [int(_value(row.get("epoch")) or 0) for row in kept],
        "series": {name: values for name, values in series.items() if any(v is not None for v in values)},
    }


def spread(count: int) -> list[int]:
    """At most ``MAX_POINTS`` of ``count`` positions, evenly spread, with both ends."""
    if count <= MAX_POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)})


def _value(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return float(f"{value:.4g}") if math.isfinite(value) else None


def reliability(record: Record) -> list[list[float]] | None:
    """Non-empty confidence bins as ``[index, count, mean confidence, accuracy]``; None without predictions.

    Equal width, ``[low, high)``, the last one closed: the bins of ``measure.calibration``.

    Raises:
        UserError: the file is not what a run writes.
    """
    if not (record.folder / PREDICTIONS).exists():
        return None
    found = read_predictions(record.folder, record.place)
    confidence, correct = found.confidence, found.correct.astype(np.float64)
    if confidence is None:
        return None
    bins = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1), confidence, side="right") - 1
    bins = np.clip(bins, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    confidences = np.bincount(bins, weights=confidence, minlength=NUM_BINS)
    hits = np.bincount(bins, weights=correct, minlength=NUM_BINS)
    return [
        [i, int(n), round(float(confidences[i] / n), 4), round(float(hits[i] / n), 4)]
        for i, n in enumerate(counts)
        if n
    ]
