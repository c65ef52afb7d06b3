"""Tables over all runs: configurations with their seeds, single runs, pairwise tests, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunebench.measure.metrics import ACCURACY, METRICS, NOTHING, Metric
from prunebench.report.configurations import Group
from prunebench.report.leagues import Budget, Family
from prunebench.report.numbers import metrics_of
from prunebench.report.pairs import Pair
from prunebench.report.record import Record
from prunebench.report.tables import Cell, Column, Table, mean, millions, over_seeds, p_value, points, signed, text

_SEEDS_NOTE = (
    "Mean ± sample standard deviation (n − 1) over seeds, never the best seed; "
    "the page has the 95 % t intervals of the means"
)
_AUROC_NOTE = (
    "AUROC: how well the entropy of the predictions tells wrong from right ones (error), and foreign pictures from "
    "those of the test set (OOD); 0.5 is chance"
)
_WEIGHTS_NOTE = (
    "Weights: removed = the net is smaller by them; masked = they are zero but still there, so that nothing is smaller "
    "or faster"
)
_UNITS_NOTE = "MACs are multiply-accumulates for one sample, counted on the net that is left; accuracy on the test set"
_Column = tuple[Column, Callable[[Group], Cell]]
"""A column of the table of configurations, and what stands in it."""


def order(groups: Sequence[Group]) -> list[Group]:
    """By data set, model, schedule, method, then from little to much removed."""
    return sorted(
        groups,
        key=lambda g: (
            *(g.first.dataset, g.first.model, g.first.schedule, g.first.method),
            g.first.numbers.get("macs_removed", 0.0),
            g.id,
        ),
    )


def configurations(groups: Sequence[Group]) -> Table:
    """One line per configuration, mean over its seeds."""
    wanted: list[_Column] = [
        (Column("Data set"), lambda g: text(g.first.dataset)),
        (Column("Model"), lambda g: text(g.first.model)),
        (Column("Method"), lambda g: text(g.first.method)),
        (Column("Setting"), lambda g: text(g.label)),
        (Column("Schedule"), lambda g: text(g.first.schedule)),
        (Column("Row"), lambda g: text(g.first.row)),
        (Column("Seeds", numeric=True), lambda g: Cell(str(len(g.records)), len(g.records), below=g.repeats)),
        *_quality(groups),
        (Column("MACs M", numeric=True, name="macs"), lambda g: millions(g.estimate("final.macs"), "{:.2f}")),
        (
            Column("sd over samples", numeric=True, name="macs_sd"),
            lambda g: millions(g.estimate("final.per_sample.sd"), "± {:.2f}"),
        ),
        _whole("macs_removed"),
        (Column("Params M", numeric=True, name="params"), lambda g: millions(g.estimate("final.params"), "{:.3f}")),
        _whole("params_removed"),
        (Column("Weights"), _weights),
        *(_of(METRICS["batch_1_ms"]), _whole("speedup.batch_1")),
        *(_of(METRICS["batch_64_ms"]), _whole("speedup.batch_64")),
        (
            Column("Status"),
            lambda g: Cell("missed target" if g.missed else "complete", chip="warn" if g.missed else "good"),
        ),
    ]
    rows = [[cell(g) for _, cell in wanted] for g in order(groups)]
    return _without_empty(
        Table(
            "configurations",
            "All configurations",
            tuple(c for c, _ in wanted),
            rows,
            (_SEEDS_NOTE, _UNITS_NOTE, _WEIGHTS_NOTE, _AUROC_NOTE),
        )
    )


def runs(records: Sequence[Record]) -> Table:
    """One line per run, failed ones included, every measured number."""
    names = sorted({name for record in records for name in record.numbers})
    words = ("method", "model", "dataset", "schedule", "row", "status", "id", "place")
    columns = [*(Column(word, name=word) for word in words), Column("seed", numeric=True, name="seed")]
    columns += [Column(name, numeric=True, name=name.replace(".", "_")) for name in names]
    rows = []
    for record in records:
        cells = [text(getattr(record, word)) for word in words]
        cells.append(Cell(str(record.seed), record.seed))
        values = (record.numbers.get(name) for name in names)
        rows.append([*cells, *(Cell() if v is None else Cell(f"{v:.6g}", v) for v in values)])
    return Table("runs", "All runs", tuple(columns), rows)


def comparisons(found: Sequence[Family]) -> Table:
    """One line per tested pair."""
    titles = ("Data set", "Model", "Schedule", "First", "Second")
    columns = [Column(title) for title in titles]
    columns += [
        Column("MACs removed %", numeric=True, name="macs_removed"),
        Column("Seed", numeric=True),
        Column("b", numeric=True),
        Column("c", numeric=True),
        Column("Δ points", numeric=True, name="difference"),
        Column("from", numeric=True, name="interval_low"),
        Column("to", numeric=True, name="interval_high"),
        Column("p, McNemar", numeric=True, name="p_mcnemar"),
        Column("p, Holm", numeric=True, name="p_holm"),
        Column("Δ over seeds", numeric=True, name="difference_over_seeds"),
        Column("Setup"),
        Column("Verdict"),
    ]
    rows = [_pair_row(f, b.low, pair) for f in found for b in f.budgets for pair in b.pairs]
    notes = (
        "Δ is first minus second, with the 95 % interval of a paired bootstrap. b (c) test examples are right only in "
        "the first (second) net; both nets have the lowest common seed. McNemar's test is exact; Holm's adjustment is "
        "over all pairs with one data set, model, schedule and base checkpoint. A pair is decided if the adjusted p is "
        "below 0.05 and every common seed has the same sign",
        "Setup: what the two runs share (Wang et al., arXiv 2301.05219, Table 2); S3.2 or higher is a fair comparison",
    )
    return Table("comparisons", "Methods at equal MACs, pairwise", tuple(columns), rows, notes)


def _pair_row(family: Family, rate: float, pair: Pair) -> list[Cell]:
    ahead = pair.first if pair.difference > 0 else pair.second
    verdict = f"{ahead.first.method} is better" if pair.decided else "undecided"
    fairness = pair.fairness
    setup = (fairness.label or "none") if fairness else NOTHING
    differs = (
        f"differ outside of the method: {', '.join(fairness.differences)}" if fairness and fairness.differences else ""
    )
    return [
        *(text(word) for word in (family.dataset, family.model, family.schedule)),
        *(Cell(g.first.method, run=g.id, below=g.label) for g in (pair.first, pair.second)),
        Cell(f"{100 * rate:.1f}", rate),
        Cell(str(pair.seed), pair.seed),
        Cell(str(pair.b), pair.b),
        Cell(str(pair.c), pair.c),
        Cell(signed(100 * pair.difference), pair.difference),
        *(Cell(signed(100 * value), value) for value in pair.interval),
        Cell(p_value(pair.p), pair.p),
        Cell(p_value(pair.p_holm), pair.p_holm),
        points(pair.over_seeds),
        Cell(setup, note=differs, chip="good" if fairness and fairness.fair else "warn"),
        Cell(verdict, chip="info" if pair.decided else "off"),
    ]


def ranks(found: Sequence[Family]) -> Table:
    """Place of each method at each budget, with the places that the tests leave open."""
    columns = [Column(title) for title in ("Data set", "Model", "Schedule")]
    columns += [
        Column("MACs removed %", numeric=True, name="macs_removed"),
        Column("Method"),
        Column("Seeds", numeric=True),
        Column(ACCURACY.column, numeric=True, name=ACCURACY.key),
        Column("Place", numeric=True),
        Column("Places left open", numeric=True, name="places"),
    ]
    rows = [
        [
            *(text(word) for word in (f.dataset, f.model, f.schedule)),
            Cell(f"{100 * b.low:.1f}", b.low),
            Cell(r.group.first.method, run=r.group.id, below=r.group.label),
            Cell(str(len(r.group.records)), len(r.group.records), below=r.group.repeats),
            over_seeds(ACCURACY, r.group.estimate(f"final.{ACCURACY.key}")),
            Cell(str(r.place), r.place),
            Cell(str(r.best) if r.best == r.worst else f"{r.best}–{r.worst}", r.best),
        ]
        for f in found
        for b in f.budgets
        for r in b.ranks
    ]
    flips = tuple(f"{f.dataset}, {f.model}, {f.schedule}: {flip}" for f in found for flip in f.flips)
    notes = ("Place by mean accuracy; the places left open follow from the decided pairs of the table of comparisons",)
    return Table("ranks", "Ranks at equal MACs", tuple(columns), rows, notes + flips)


def rank_grids(found: Sequence[Family]) -> list[Table]:
    """One table per family, methods down, budgets across: accuracy and the places that the tests leave open."""
    return [_grid(f"ranks-{number}", family) for number, family in enumerate(found, 1)]


def _grid(name: str, family: Family) -> Table:
    methods = sorted({rank.group.first.method for budget in family.budgets for rank in budget.ranks})
    columns = [Column("Method")]
    for i, budget in enumerate(family.budgets):
        heading = "Accuracy % at MACs removed"
        columns.append(Column(f"{100 * budget.low:.0f} %", numeric=True, group=heading, starts=not i))
    rows = [[Cell(method), *(_place(budget, method) for budget in family.budgets)] for method in methods]
    notes = ("Below each accuracy: the places that the tests leave open", *family.flips)
    return Table(name, f"{family.model} on {family.dataset}, {family.schedule}", tuple(columns), rows, notes)


def _place(budget: Budget, method: str) -> Cell:
    for rank in budget.ranks:
        if rank.group.first.method == method:
            cell = over_seeds(ACCURACY, rank.group.estimate(f"final.{ACCURACY.key}"))
            places = f"{rank.best}" if rank.best == rank.worst else f"{rank.best}–{rank.worst}"
            return Cell(cell.text, cell.value, note=rank.group.name, run=rank.group.id, below=places)
    return Cell()


def _quality(groups: Sequence[Group]) -> list[_Column]:
    """What each final net predicts, and what its method reports of it; the drop is beside the accuracy."""
    numbers = [record.numbers for item in groups for record in item.records]
    found = [_of(metric) for metric in metrics_of(numbers, "summary") if metric.place == "metrics"]
    after = 1 + [column.name for column, _ in found].index(ACCURACY.key)
    drop = Column("Δ dense", numeric=True, name="accuracy_minus_dense")
    return [*found[:after], (drop, lambda g: points(g.drop())), *found[after:]]


def _of(metric: Metric) -> _Column:
    """A column with a metric of the final net."""
    column = Column(metric.column, numeric=True, name=metric.key.replace(".", "_"))
    if metric is ACCURACY:
        return column, _accuracy
    return column, lambda g: over_seeds(metric, g.estimate(f"final.{metric.key}"))


def _whole(key: str) -> _Column:
    """A column with a metric of the whole run."""
    metric = METRICS[key]
    return Column(metric.column, numeric=True, name=key.replace(".", "_")), lambda g: mean(metric, g.estimate(key))


def _accuracy(found: Group) -> Cell:
    cell = over_seeds(ACCURACY, found.estimate(f"final.{ACCURACY.key}"))
    source = "checkpoint" if found.first.checkpoint else "trained"
    return Cell(cell.text, cell.value, source if cell.text != NOTHING else "", cell.note, found.id)


def _weights(found: Group) -> Cell:
    """Removed or only masked?"""
    gone, masked = found.estimate("params_removed"), found.masked
    words = ["removed"] if gone is not None and gone.mean > 0 else []
    words += [f"masked, {100 * masked:.1f} % zero"] if masked else []
    return Cell(" and ".join(words) or NOTHING, masked or None, chip="warn" if masked else "")


def _without_empty(table: Table) -> Table:
    """Without the columns that have no cell at all."""
    used = [i for i in range(len(table.columns)) if any(row[i].text != NOTHING for row in table.rows)]
    rows = [[row[i] for i in used] for row in table.rows]
    return Table(table.name, table.title, tuple(table.columns[i] for i in used), rows, table.notes)
