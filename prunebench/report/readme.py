"""The result tables of a README, written between markers from the published runs alone, never typed.

A table stands between ``<!-- results:begin NAME -->`` and ``<!-- results:end NAME -->``. NAME is ``rows`` (rows of
papers), ``claims`` (who is better than whom), ``one-word`` (each method as ``python -m prunebench method=<name>`` runs
it), ``int8`` (nets in floating point and in integers), or ``<data set>-<schedule>`` (accuracy of each method and
setting on each net, without the rows of papers and the nets in integers).
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prunebench.disk.atomic import write_text
from prunebench.errors import UserError, nearest
from prunebench.measure.metrics import ACCURACY, BPC, CALIBRATION, METRICS
from prunebench.report import collect, configurations, contests, leagues, papers, summaries, tables, values
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.tables import Cell, Column, Table
from prunebench.rows import Paper

_BLOCK = re.compile(r"(<!-- results:begin (\S+) -->\n).*?(<!-- results:end \2 -->)", re.DOTALL)
_MARK = re.compile(r"<!-- results:(?:begin|end) ")
_REMOVED = METRICS["macs_removed"]
_ASIDE = ("trainer.num_threads=", "trainer.progress=", "latency=", "paths.", "seed=")
"""Words of a command that change neither what is trained nor what is pruned."""


def write(readme: Path, published: Path, rows: Sequence[Paper]) -> list[str]:
    """Write the tables between the markers of ``readme``; returns their names.

    Raises:
        UserError: see :func:`render`; nothing is written then.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{readme} cannot be read ({error.strerror})") from None
    found = render(text, made(published, rows))
    if found != text:
        write_text(readme, found)
    return [match[2] for match in _BLOCK.finditer(text)]


def render(text: str, made: Mapping[str, Callable[[], str]]) -> str:
    """``text`` with what stands between its markers replaced.

    Args:
        made: Markdown of each table by name.

    Raises:
        UserError: a marker names no table, or has no partner; there is none.
    """
    if 2 * len(_BLOCK.findall(text)) != len(_MARK.findall(text)) or not _BLOCK.search(text):
        raise UserError("each marker <!-- results:begin NAME --> needs its <!-- results:end NAME --> below it")
    for _, name, _ in _BLOCK.findall(text):
        if name not in made:
            raise UserError(f"no table is called {name}; there are {', '.join(made)}{nearest(name, made)}")
    return _BLOCK.sub(lambda block: f"{block[1]}{made[block[2]]()}{block[3]}", text)


def made(published: Path, rows: Sequence[Paper]) -> dict[str, Callable[[], str]]:
    """What makes the Markdown of each table, by name, over the runs in the open store."""
    collection = collect.collect(None, published=published)
    if collection.left_out:
        first = collection.left_out[0]
        raise UserError(f"{first.place} cannot be shown: {first.reason}")
    grouped = configurations.group(collection.records)
    subjects: dict[str, list[Group]] = {}
    in_integers = [item for item in grouped if item.estimate(f"quantized.{ACCURACY.key}") is not None]
    for item in summaries.order(item for item in grouped if item.first.row is None and item not in in_integers):
        subjects.setdefault(f"{item.first.dataset}-{item.first.schedule}", []).append(item)
    return {
        "rows": partial(_rows, rows, grouped),
        "claims": partial(_claims, grouped),
        "int8": partial(_int8, in_integers),
        "one-word": partial(_one_word, grouped, collection.pool.values),
        **{name: partial(_grid, members) for name, members in subjects.items()},
    }


def _rows(rows: Sequence[Paper], grouped: Sequence[Group]) -> str:
    table, _ = papers.rows_run(papers.views(rows, grouped))
    shown = _body(table) if table.rows else "No row of a paper has been published yet.\n"
    return f"{_counts(rows)}\n\n{shown}"


def _counts(rows: Sequence[Paper]) -> str:
    every = [row for paper in rows for row in paper.rows]
    of = Counter(row.status for row in every)
    runs = sum(part.overrides is not None for row in every for part in row.parts)
    return (
        f"Of {len(every)} rows of {len(rows)} papers {of['runnable']} can be run ({runs} runs with their variants), "
        f"{of['quoted']} are a competitor's number\nthat a paper quotes, and {of['pending']} wait for a method that is "
        "not built, or name no number."
    )


def _claims(grouped: Sequence[Group]) -> str:
    families, _ = leagues.families(grouped)
    found = contests.claims(families)
    pairs = [pair for family in families for budget in family.budgets for pair in budget.pairs]
    lines = [f"- {claim}" for claim in found] or ["The tests leave it open who is better than whom."]
    few = f"fewer than {CLAIM_SEEDS} nets of each"
    reasons = Counter(few if pair.nets < CLAIM_SEEDS else pair.open_because for pair in pairs if not pair.decided)
    rule = f"{len(pairs)} pairs at equal MACs tested"
    rule += f", open: {', '.join(f'{count} ({why})' for why, count in reasons.most_common())}." if reasons else "."
    apart = contests.num_apart(families)
    rule += f" Not compared: {contests.not_compared(apart)}." if apart else ""
    rule += (
        " In brackets: points of accuracy, mean of the differences of equal seeds ± their sample standard deviation."
        if found
        else ""
    )
    return ("\n".join([*lines, "", rule]) if found else f"{lines[0]} {rule}") + "\n"


def _one_word(grouped: Sequence[Group], pool: Sequence[Any]) -> str:
    """Every method with nothing else said: what it trains and prunes then, and how that ends."""
    found: dict[str, Group] = {}
    for item in grouped:
        words = shlex.split(str(pool[item.first.facts["command"]]))[3:]  # python -m prunebench ...
        said = [word for word in words if not word.startswith(_ASIDE)]
        if len(said) == 1 and (method := said[0].removeprefix("method=")) != said[0]:
            found[method] = item
    columns = (
        *(Column(title) for title in ("Method", "Net and data", "Schedule")),
        *(
            Column(title, numeric=True)
            for title in ("Dense %", "Final %", CALIBRATION.column, BPC.column, "MACs −%", "Non-zero parameters 1/×")
        ),
    )
    rows = []
    for method, item in sorted(found.items()):
        first, estimate = item.first, item.estimate
        fewer = values.ours(item, "compression")
        rows.append(
            [
                *(Cell(text) for text in (method, f"{first.model} on {first.dataset}", first.schedule)),
                tables.over_seeds(ACCURACY, estimate(f"dense.{ACCURACY.key}")),
                *(
                    tables.over_seeds(metric, estimate(f"final.{metric.key}"))
                    for metric in (ACCURACY, CALIBRATION, BPC)
                ),
                tables.over_seeds(_REMOVED, estimate(_REMOVED.key)),
                Cell() if fewer is None else Cell(values.form("compression", fewer.mean)),
            ]
        )
    return _body(Table("", "", columns, rows))


def _int8(grouped: Sequence[Group]) -> str:
    """Dense and cut nets, each in floating point and in integers: accuracy and size of the exported file."""
    titles = ("Dense %", "in int8", "Cut %", "in int8", "MACs −%", "Dense file kB", "in int8", "Cut file kB", "in int8")
    columns = (*map(Column, ("Net", "Data", "Method")), *(Column(title, numeric=True) for title in titles))
    rows = []
    for item in sorted(grouped, key=lambda item: (item.first.dataset, item.first.model, item.first.method)):
        first, estimate = item.first, item.estimate
        stages = ("dense", "dense_quantized", "final", "quantized")
        sizes = (
            *("dense_quantized.float32_file_bytes", "dense_quantized.file_bytes"),
            *("quantized.float32_file_bytes", "quantized.file_bytes"),
        )
        rows.append(
            [
                *(Cell(text) for text in (first.model, first.dataset, first.method)),
                *(tables.over_seeds(ACCURACY, estimate(f"{stage}.{ACCURACY.key}")) for stage in stages),
                tables.over_seeds(_REMOVED, estimate(_REMOVED.key)),
                *(Cell("–" if (own := estimate(size)) is None else f"{own.mean / 1000:,.0f}") for size in sizes),
            ]
        )
    return _body(Table("", "", columns, rows))


def _grid(members: Sequence[Group]) -> str:
    """Methods down, nets and settings across: accuracy % over seeds, MACs removed % in brackets."""
    places = [(item.first.model, setting) for item, setting in zip(members, _settings(members), strict=True)]
    across = sorted(set(places))
    columns = (Column("Method"), *(Column(", ".join(filter(None, place)), numeric=True) for place in across))
    methods = dict.fromkeys(sorted(item.first.method for item in members))
    cells: dict[tuple[str, tuple[str, str]], Cell] = {}
    for item, place in zip(members, places, strict=True):
        if (item.first.method, place) in cells:
            raise UserError(f"two configurations have one place in a table: {item.first.method} {' '.join(place)}")
        cells[item.first.method, place] = _cell(item)
    rows = [[Cell(method), *(cells.get((method, place), Cell()) for place in across)] for method in methods]
    return _dense(members) + "\n\n" + _body(Table("", "", columns, rows))


def _settings(members: Sequence[Group]) -> list[str]:
    """The settings of each group in which those of some method on some net differ: of all methods the same ones."""
    alike: dict[tuple[str, str], list[Group]] = {}
    for item in members:
        alike.setdefault((item.first.method, item.first.model), []).append(item)
    keys = list(dict.fromkeys(key for groups in alike.values() for key in configurations.varying(groups)))
    return [configurations.label(item.first.settings, keys) for item in members]


def _cell(item: Group) -> Cell:
    accuracy = tables.over_seeds(ACCURACY, item.estimate(f"final.{ACCURACY.key}"))
    removed = item.estimate(_REMOVED.key)
    return Cell(accuracy.text if removed is None else f"{accuracy.text} ({100 * removed.mean:.0f})")


def _dense(members: Sequence[Group]) -> str:
    """What the numbers are, and the dense nets beside which they stand."""
    dense: dict[str, str] = {}
    for item in members:
        found = tables.over_seeds(ACCURACY, item.estimate(f"dense.{ACCURACY.key}")).text
        dense.setdefault(item.first.model, f"{item.first.model} {found}")
    counts = [len(item.records) for item in members]
    return (
        f"Test accuracy % (MACs removed %), mean ± sample standard deviation where there are several seeds; "
        f"{sum(counts)} runs. Dense: {', '.join(dense.values())}."
    )


def _body(table: Table) -> str:
    """Markdown without the heading: the README has its own."""
    return tables.to_markdown(table).split("\n", 2)[2]
