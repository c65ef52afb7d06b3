"""``index.html``: one file with its style, script and data inside, usable from a disk, without any request."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunebench.disk.atomic import write_text
from prunebench.report import contests, guarantees, support
from prunebench.report.collect import Collection
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.leagues import Family
from prunebench.report.page_data import folded, page_data
from prunebench.report.paper_table import STATES
from prunebench.report.papers import View, rows_run, totals
from prunebench.report.sensitivities import Sensitivity

MAX_LINES = 100
"""So many lines of the tables of guarantees and of pairs are on the page; all of them are in the files."""
SCRIPTS = ("base", "runs", "plots", "board", "shares", "detail", "address", "main")


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
