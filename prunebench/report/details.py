"""What the page draws for single runs: learning curves from ``metrics.csv``, reliability from ``predictions.npz``."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunebench.report.record import Record

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


def curves(record: Record) -> list[dict[str, Any]]:
    """Per phase: ``phase``, ``epochs`` (0-based) and ``series`` (name → one value or null per epoch).

    A missing file or an unreadable value leaves a gap, since ``metrics.csv`` only illustrates the result.
    """
    try:
        with (record.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    phases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        phases.setdefault(str(row.get("phase")), []).append(row)
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
    """Non-empty confidence bins as ``[index, count, mean confidence, accuracy]``; None without readable predictions.

    Equal width, ``[low, high)``, the last one closed: the bins of ``measure.calibration``.
    """
    try:
        with np.load(record.folder / "predictions.npz", allow_pickle=False) as arrays:
            confidence, correct = arrays["confidence"].astype(np.float64), arrays["correct"].astype(np.float64)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if confidence.ndim != 1 or confidence.shape != correct.shape or not np.isfinite(confidence).all():
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
