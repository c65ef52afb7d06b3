"""``index.html``: one file with its style, script and data inside, usable from a disk, without any request."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunebench.disk.atomic import write_text
from prunebench.measure.metrics import CALIBRATION, METRICS, VALIDATION, Metric
from prunebench.measure.stages import STAGES
from prunebench.report import contests, details, guarantees, support
from prunebench.report.collect import Collection, LeftOut
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.leagues import Family
from prunebench.report.numbers import metrics_of
from prunebench.report.paper_table import STATES
from prunebench.report.papers import View, rows_run, totals
from prunebench.report.record import Record

MAX_GUARANTEES = 300
"""So many lines of that table are on the page; all of them are in the files."""
SCRIPTS = ("base", "runs", "plots", "shares", "detail", "main")


def write_page(
    path: Path,
    *,
    collection: Collection,
    drawn: Mapping[str, Any],
    groups: Sequence[Group],
    views: Sequence[View],
    families: Sequence[Family],
    untested: int,
    source: str,
) -> Path:
    """Write the page.

    Args:
        drawn: what is drawn of single runs, see :func:`prunebench.report.details.details`.
        source: the folder of the runs as the reader knows it.
        untested: pairs of methods left untested because there are too many.
    """
    templates = Environment(
        loader=PackageLoader("prunebench.report"),
        autoescape=True,  # names and texts come from configurations and files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counts = totals(views)
    content = templates.get_template("page.html.j2").render(
        **_assets(templates),
        data=Markup(embed(page_data(collection, groups, drawn))),
        built=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        source=source,
        tiles=_tiles(collection.records, groups, views, collection.left_out),
        papers=views,
        rows_run=rows_run(views),
        states=[(key, words, counts[key]) for key, (words, _) in STATES.items()],
        grids=contests.rank_grids(families),
        claims=contests.claims(families),
        claim_seeds=CLAIM_SEEDS,
        comparisons=contests.comparisons(families),
        refused=[text for family in families for text in family.refused],
        untested=untested,
        checks=support.table(groups) if groups else None,
        guarantees=guarantees.table(groups),
        max_guarantees=MAX_GUARANTEES,
        left_out=collection.left_out,
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


def page_data(collection: Collection, groups: Sequence[Group], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws: runs in rows, words and repeated values named by number."""
    names = sorted({name for record in collection.records for name in record.numbers})
    labels = {item.id: item.label for item in groups}
    words: dict[str, int] = {}

    def word(value: str | None) -> int:
        return words.setdefault(value or "", len(words))

    def line(r: Record) -> list[Any]:
        origin = "published" if r.published else "own"
        terms = (r.status, r.method, r.model, r.dataset, r.schedule, r.row, labels.get(r.id), origin)
        numbers = [_rounded(r.numbers.get(name)) for name in names]
        head = [r.id, r.seed, *map(word, terms), r.place, r.started, r.error, word(r.machine), r.checkpoint]
        return [*head, r.facts, r.kept, numbers]

    rows = [line(record) for record in collection.records]
    return {
        "names": names,
        "runs": rows,
        "words": list(words),
        "pool": collection.pool.values,
        "metrics": list(map(_metric, _shown(collection.records))),
        "stages": [{"name": s.name, "label": s.label, "meaning": s.meaning} for s in STAGES.values()],
        "methods": sorted({record.method for record in collection.records}),
        "estimates": {item.id: _estimate(item) for item in groups if item.estimate("final.accuracy")},
        "details": drawn,
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
    """Six significant digits are more than any cell shows; whole numbers stay exact."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}")


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Nothing is loaded from anywhere; of styles and scripts only those that are named by their hash are used."""

    def hashes(texts: Sequence[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    return (
        f"default-src 'none'; style-src {hashes(styles)}; script-src {hashes(scripts)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _tiles(
    records: Sequence[Record], groups: Sequence[Group], views: Sequence[View], left_out: Sequence[LeftOut]
) -> list[dict[str, str]]:
    counts = totals(views)
    tiles: list[dict[str, str]] = []
    if views:
        total = sum(view.total for view in views)
        tiles.append({"title": "Papers", "value": str(len(views)), "more": f"{total} rows"})
        claims = sum(
            line.state == "reproduced" and line.group is not None and len(line.group.records) >= CLAIM_SEEDS
            for view in views
            for line in view.lines
        )
        more = f"of {total}, {claims} with {CLAIM_SEEDS} seeds or more" if counts["reproduced"] else f"of {total}"
        tiles.append({"title": "Rows reproduced", "value": str(counts["reproduced"]), "more": more})
        words = {"changed": "with changed settings", "failed": "failed"}
        more = ", ".join(f"+ {counts[state]} {text}" for state, text in words.items() if counts[state])
        tiles.append({"title": "Rows run", "value": str(counts["reproduced"] + counts["run"]), "more": more})
        more = f"+ {counts['quoted']} quoted"
        tiles.append({"title": "Rows pending", "value": str(counts["pending"]), "more": more})
    published = sum(record.published for record in records)
    more = f"{len(groups):,} configurations" + (f", {published:,} runs published" if published else "")
    tiles.append({"title": "Runs", "value": f"{len(records):,}", "more": more})
    failed = sum(record.status == "failed" for record in records)
    missed = sum(record.status == "missed_target" for record in records)
    tiles.append({"title": "Failed", "value": str(failed), "more": f"{missed} missed the target"})
    tiles.append({"title": "Left out", "value": str(len(left_out)), "more": ""})
    return tiles
