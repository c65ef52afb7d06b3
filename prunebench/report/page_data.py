"""What the scripts of the page know of the runs: numbers in rows, words and repeated values named by number."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from prunebench.measure.metrics import CALIBRATION, METRICS, VALIDATION, Metric
from prunebench.measure.stages import STAGES
from prunebench.report import details
from prunebench.report.collect import Collection
from prunebench.report.configurations import Group
from prunebench.report.numbers import metrics_of
from prunebench.report.record import Record

DIGITS = 6
"""Significant ones of a number on the page: more than any cell shows."""


def page_data(collection: Collection, groups: Sequence[Group]) -> dict[str, Any]:
    """What tables and plots show: runs in rows, words and repeated values named by number."""
    names = _names(collection.records, at_once=True)
    labels = {item.id: item.label for item in groups}
    words: dict[str, int] = {}

    def word(value: str | None) -> int:
        return words.setdefault(value or "", len(words))

    def line(r: Record) -> list[Any]:
        origin = "published" if r.published else "own"
        terms = (
            r.status,
            r.method,
            r.model,
            r.dataset,
            r.schedule,
            r.row,
            labels.get(r.id),
            origin,
            r.machine,
            r.error,
        )
        return [r.id, r.seed, *map(word, terms), _numbers(r, names)]

    rows = [line(record) for record in collection.records]
    return {
        "names": names,
        "runs": rows,
        "words": list(words),
        "metrics": list(map(_metric, _shown(collection.records))),
        "stages": [{"name": s.name, "label": s.label, "meaning": s.meaning} for s in STAGES.values()],
        "methods": sorted({record.method for record in collection.records}),
        "repeats": {item.id: item.repeated for item in groups if item.repeated},
        "estimates": {item.id: _estimate(item) for item in groups if item.estimate("final.accuracy")},
        "points": {
            record.key: [
                [point.name, {key: _rounded(value) for key, value in point.numbers.items()}, dict(point.settings)]
                for point in found
            ]
            for record in collection.records
            if (found := record.points)
        },
        "calibration": CALIBRATION.key,
        "validation": VALIDATION,
        "limits": {"details": details.MAX_RUNS, "bins": details.NUM_BINS},
    }


def folded(collection: Collection, drawn: Mapping[str, Any]) -> str:
    """What only a single run shows, for all runs: JSON, compressed, in base64; the script unfolds it when it is needed.

    The numbers of 20,000 runs would be two thirds of a page.
    """
    names = _names(collection.records, at_once=False)
    rows = [
        [r.place, r.started, r.checkpoint, r.traceback, r.facts, r.kept, _numbers(r, names)] for r in collection.records
    ]
    found = {"names": names, "runs": rows, "pool": collection.pool.values, "details": drawn}
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # without a time, so that the same results give the same page
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _names(records: Sequence[Record], *, at_once: bool) -> list[str]:
    """Names of numbers: those that tables and plots show at once, or the others."""
    found = sorted({name for record in records for name in record.numbers})
    shown = [metric for metric in _shown(records) if metric.shown == "summary"]
    keys = {metric.key for metric in shown if metric.staged} | {key.replace("_ms", "_spread_ms") for key in _TIMES}
    sizes = {metric.key for metric in shown if metric.place == "cost"} | {*_TIMES, *(m.key for m in shown if m.better)}
    whole = {metric.key for metric in shown if not metric.staged} | {"masked"}

    def is_shown(name: str) -> bool:
        stage, _, key = name.partition(".")
        return name in whole or (stage == "final" and key in keys) or (stage == "dense" and key in sizes & keys)

    return [name for name in found if is_shown(name) == at_once]


_TIMES = tuple(metric.key for metric in METRICS.values() if metric.place == "latency" and metric.key.endswith("_ms"))


def _numbers(record: Record, names: Sequence[str]) -> list[float | None]:
    """The numbers ``names``, without the missing ones at the end."""
    values = [_rounded(record.numbers.get(name)) for name in names]
    while values and values[-1] is None:
        values.pop()
    return values


def _shown(records: Sequence[Record]) -> list[Metric]:
    """What the page can show by name: metrics of the stages in the order of tables, then those of whole runs."""
    whole = [metric for metric in METRICS.values() if not metric.staged and metric.shown == "summary"]
    return [*metrics_of((record.numbers for record in records), "summary", "detail"), *whole]


def _metric(metric: Metric) -> dict[str, Any]:
    """How the script writes a metric; it does in ``show`` what ``Metric.show`` does."""
    registered = metric.key in METRICS  # the name of a method's own number stays as it is
    axis, factor = metric.axis
    return {
        "key": metric.key,
        "label": metric.heading[:1].upper() + metric.heading[1:] if registered else metric.heading,
        "title": metric.title or metric.label,
        "mark": metric.unit.mark,
        "axis": axis,
        "factor": factor,
        "scale": metric.unit.scale,
        "digits": metric.digits,
        "better": metric.better,
        "place": metric.place,
        "staged": metric.staged,
        "shown": metric.shown,
        "nested": metric.nested,
        "headline": metric.headline,
    }


def _estimate(item: Group) -> list[float | int | None]:
    found = item.estimate("final.accuracy")
    assert found is not None
    return [_rounded(found.mean), _rounded(found.sd), _rounded(found.half_width), found.count]


def _rounded(value: float | None) -> float | None:
    """With :data:`DIGITS`; whole numbers stay exact."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}")
