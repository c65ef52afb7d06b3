"""``index.html``: one file with its style, script and data inside, usable from a disk, without any request."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunebench.disk.atomic import write_text
from prunebench.measure.metrics import CALIBRATION, METRICS, VALIDATION, Metric
from prunebench.measure.stages import STAGES
from prunebench.report import contests, details, guarantees, support
from prunebench.report.collect import Collection
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.leagues import Family
from prunebench.report.numbers import metrics_of
from prunebench.report.paper_table import STATES
from prunebench.report.papers import View, rows_run, totals
from prunebench.report.record import Record
from prunebench.report.sensitivities import Sensitivity

MAX_LINES = 100
"""So many lines of the tables of guarantees and of pairs are on the page; all of them are in the files."""
SCRIPTS = ("base", "runs", "plots", "board", "shares", "detail", "address", "main")
DIGITS = 6
"""Significant ones of a number on the page: more than any cell shows."""


def write_page(
    path: Path,
    *,
    collection: Collection,
    drawn: Mapping[str, Any],
    groups: Sequence[Group],
    views: Sequence[View],
    sensitivities: Sequence[Sensitivity],
    families: Sequence[Family],
    untested: int,
    source: str,
    written: AbstractSet[str],
) -> Path:
    """Write the page.

    Args:
        drawn: what is drawn of single runs, see :func:`prunebench.report.details.details`.
        source: the folder of the runs as the reader knows it.
        untested: pairs of methods left untested because there are too many.
        written: names of the tables beside the page, in ``tables/``.
    """
    templates = Environment(
        loader=PackageLoader("prunebench.report"),
        autoescape=True,  # names and texts come from configurations and files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counts = totals(views)
    pairs = [pair for family in families for budget in family.budgets for pair in budget.pairs]
    content = templates.get_template("page.html.j2").render(
        **_assets(templates),
        data=Markup(embed(page_data(collection, groups))),
        folded=folded(collection, drawn),
        built=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        source=source,
        tiles=_tiles(collection, groups, views),
        papers=views,
        sensitivities=sensitivities,
        rows_run=rows_run(views),
        states=[(key, words, counts[key]) for key, (words, _) in STATES.items()],
        grids=contests.rank_grids(families),
        matrices=contests.matrices(families),
        num_pairs=len(pairs),
        num_decided=sum(pair.decided for pair in pairs),
        num_apart=contests.num_apart(families),
        apart_rule=contests.APART,
        written=written,
        num_rows=sum(len(view.paper.rows) for view in views),
        num_variants=sum(len(view.lines) for view in views),
        num_failed=sum(not record.measured for record in collection.records),
        unfinished=collection.unfinished,
        claim_seeds=CLAIM_SEEDS,
        comparisons=contests.comparisons(families),
        refused=[text for family in families for text in family.refused],
        untested=untested,
        checks=support.table(groups) if groups else None,
        guarantees=guarantees.table(groups),
        max_lines=MAX_LINES,
        left_out=collection.left_out,
        left_out_words=collection.left_out_words,
    )
    write_text(path, content)
    return path


def _assets(templates: Environment) -> dict[str, str]:
    """Style and scripts as they stand in the page, and the policy that allows these and nothing else."""

    def read(name: str) -> str:
        assert templates.loader is not None
        return templates.loader.get_source(templates, name)[0].strip()

    style, early = read("style.css"), read("early.js")
    script = "\n".join(["(() => {", '"use strict";', *(read(f"{name}.js") for name in SCRIPTS), "})();"])
    found = {"style": Markup(style), "early": Markup(early), "script": Markup(script)}
    return {"policy": _policy([style], [early, script]), **found}


def embed(value: Any) -> str:
    """``value`` as JSON that may stand inside a script element: no tag, entity or line separator can begin there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


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


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Nothing is loaded from anywhere; of styles and scripts only those that are named by their hash are used."""

    def hashes(texts: Sequence[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    return (
        f"default-src 'none'; style-src {hashes(styles)}; script-src {hashes(scripts)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _tiles(collection: Collection, groups: Sequence[Group], views: Sequence[View]) -> list[dict[str, str]]:
    records = collection.records
    tiles: list[dict[str, str]] = []
    published = sum(record.published for record in records)
    more = f"{len(groups):,} configurations" + (f", {published:,} runs published" if published else "")
    tiles.append({"title": "Runs", "value": f"{len(records):,}", "more": more})
    failed = sum(record.status == "failed" for record in records)
    missed = sum(record.status == "missed_target" for record in records)
    more = f"{missed} missed the target, {len(collection.unfinished)} unfinished"
    tiles.append({"title": "Failed", "value": str(failed), "more": more})
    if views:
        tiles += _paper_tiles(views)
    more = collection.left_out_words or "no result is unreadable or a repeat"
    tiles.append({"title": "Left out", "value": str(len(collection.left_out)), "more": more})
    return tiles


def _paper_tiles(views: Sequence[View]) -> list[dict[str, str]]:
    """A row of a paper has variants, and these are what is run and reproduced."""
    counts = totals(views)
    rows, variants = sum(len(view.paper.rows) for view in views), sum(counts.values())
    can_run = variants - counts["quoted"] - counts["pending"]
    claims = sum(
        line.state == "reproduced" and line.group is not None and len(line.group.records) >= CLAIM_SEEDS
        for view in views
        for line in view.lines
    )
    reproduced = f"of {can_run} that can be run" + (f", {claims} with {CLAIM_SEEDS} nets or more" if claims else "")
    words = {"changed": "with changed settings", "failed": "failed"}
    also = ", ".join(f"+ {counts[state]} {text}" for state, text in words.items() if counts[state])
    return [
        {"title": "Rows of papers", "value": f"{rows:,}", "more": f"{len(views)} papers, {variants:,} variants"},
        {"title": "Variants reproduced", "value": str(counts["reproduced"]), "more": reproduced},
        {"title": "Variants run", "value": str(counts["reproduced"] + counts["run"]), "more": also},
    ]
