"""Tables of the tests between methods: pairs, who is better than whom, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.measure.metrics import ACCURACY, NOTHING
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.leagues import Budget, Family
from prunebench.report.pairs import Pair
from prunebench.report.strata import KEYS, difference
from prunebench.report.tables import Cell, Column, Table, over_seeds, p_value, points, signed, text

_KEYS = f"{', '.join(KEYS[:-1])} or {KEYS[-1]}"
APART = f"Methods are compared only with equal settings of {', '.join(KEYS[:-1])} and {KEYS[-1]}: what they may cut"


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
        "Δ is first minus second, with its 95 % score interval (Tango). b (c) test examples are right only in "
        "the first (second) net; both nets have the lowest common seed. McNemar's test is exact; Holm's adjustment is "
        "over all pairs with one data set, model, schedule and base checkpoint. Δ over seeds: the mean of the "
        "differences of equal seeds ± their sample standard deviation. Somebody is better if there are "
        f"{CLAIM_SEEDS} nets of each, the adjusted p is below 0.05, every common seed has the same sign and the 95 % t "
        "interval of the differences over seeds does not hold 0",
        f"{APART}; {num_apart(found)} pairs differ there",
        "Setup: what the two runs share (Wang et al., arXiv 2301.05219, Table 2); S3.2 or higher is a fair comparison",
    )
    return Table("comparisons", "Methods at equal MACs, pairwise", tuple(columns), rows, notes)


def _pair_row(family: Family, rate: float, pair: Pair) -> list[Cell]:
    verdict = f"{pair.ahead.called} is better" if pair.decided else f"open: {pair.open_because}"
    fairness = pair.fairness
    setup = (fairness.label or "none") if fairness else NOTHING
    differs = (
        f"differ outside of the method: {', '.join(fairness.differences)}" if fairness and fairness.differences else ""
    )
    return [
        *(text(word) for word in (family.dataset, family.model, family.schedule)),
        *(Cell(g.called, run=g.id, below=g.label) for g in (pair.first, pair.second)),
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


def claims(found: Sequence[Family]) -> list[str]:
    """Who is better than whom, where the rule of a claim holds: one sentence for each budget, the best first."""
    return [
        f"{family.model} on {family.dataset}, {family.schedule}, {100 * budget.low:.0f} % of the MACs removed: {told}"
        + (f". Not compared: {not_compared(budget.apart)}" if budget.apart else "")
        for family in found
        for budget in family.budgets
        if (told := _claims(budget))
    ]


def not_compared(apart: int) -> str:
    """How many pairs of a budget are not compared, and why."""
    return f"{apart} pair{'s' if apart != 1 else ''} that differ{'s' if apart == 1 else ''} in {_KEYS}"


def num_apart(found: Sequence[Family]) -> int:
    """Pairs at equal MACs that are not compared, since their methods may not cut the same."""
    return sum(budget.apart for family in found for budget in family.budgets)


def _claims(budget: Budget) -> str:
    """``a is better than b (+9.2 ± 1.0), c (+1.5 ± 0.2); b than c (+1.1 ± 0.1)``, or nothing."""
    won: dict[str, list[str]] = {rank.group.id: [] for rank in budget.ranks}
    for pair in (pair for pair in budget.pairs if pair.decided):
        mean, sd = abs(pair.over_seeds.mean), pair.over_seeds.sd or 0.0
        won[pair.ahead.id].append(f"{pair.behind.called} (+{100 * mean:.1f} ± {100 * sd:.1f})")
    names = {rank.group.id: rank.group.called for rank in budget.ranks}
    parts = [(names[winner], ", ".join(losers)) for winner, losers in won.items() if losers]
    return "; ".join(f"{name} {'' if place else 'is better '}than {rest}" for place, (name, rest) in enumerate(parts))


def matrices(found: Sequence[Family]) -> list[dict[str, Any]]:
    """For the page: of each family its budgets, each with all methods against all, the best by mean accuracy first."""
    made = []
    for family in found:
        pairs = [pair for budget in family.budgets for pair in budget.pairs]
        made.append(
            {
                "title": f"{family.model} on {family.dataset}, {family.schedule}",
                "base": f"from the weights {family.checkpoint[:8]}" if family.checkpoint else "",
                "pairs": len(pairs),
                "decided": sum(pair.decided for pair in pairs),
                "apart": sum(budget.apart for budget in family.budgets),
                "budgets": [_matrix(budget) for budget in family.budgets],
            }
        )
    return made


def _matrix(budget: Budget) -> dict[str, Any]:
    groups = [rank.group for rank in budget.ranks]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for pair in budget.pairs:
        for sign, one, other in ((1, pair.first, pair.second), (-1, pair.second, pair.first)):
            cells[one.id, other.id] = _against(pair, sign)

    def cell(one: Group, other: Group) -> dict[str, str]:
        if apart := difference(one.stratum, other.stratum):
            return {"text": _APART, "look": "", "note": f"not compared: {apart}"}
        return cells.get((one.id, other.id), {"text": "", "look": "", "note": ""})

    names = [group.called for group in groups]
    rows = [(one.called, [cell(one, other) for other in groups]) for one in groups]
    low, high = (f"{100 * rate:.0f}" for rate in (budget.low, budget.high))
    return {
        "title": f"{low if low == high else f'{low} to {high}'} % of the MACs removed",
        "names": names,
        "rows": rows,
    }


def _against(pair: Pair, sign: int) -> dict[str, str]:
    """Cell of the method whose difference is ``sign`` times that of the pair."""
    mean, (b, c) = sign * pair.over_seeds.mean, (pair.b, pair.c)[::sign]
    look = ("ahead" if mean > 0 else "behind") if pair.decided else ""
    verdict = "decided" if pair.decided else f"open: {pair.open_because}"
    note = f"{verdict}; mean over {_nets(pair.nets)} of each with equal seeds"
    if pair.over_seeds.sd is not None and pair.over_seeds.interval is not None:
        low, high = sorted(100 * sign * end for end in pair.over_seeds.interval)
        note += f" ± {100 * pair.over_seeds.sd:.2f}, 95 % t interval {signed(low)} to {signed(high)}"
    note += f"; p after Holm {p_value(pair.p_holm)}; seed {pair.seed}: {signed(100 * sign * pair.difference)}, "
    note += f"{b} examples right only here, {c} only there"
    return {"text": f"{signed(100 * mean)} {_MARKS[look]}", "look": look, "note": note}


_MARKS = {"ahead": "▲", "behind": "▼", "": "○"}
_APART = "·"


def _nets(count: int) -> str:
    return f"{count} net{'' if count == 1 else 's'}"


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
            Cell(r.group.called, run=r.group.id, below=r.group.label),
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
    notes = (
        "Place by mean accuracy, also among methods that may not cut the same; the places left open follow from the "
        "decided pairs of the table of comparisons, where these are not compared",
    )
    return Table("ranks", "Ranks at equal MACs", tuple(columns), rows, notes + flips)


def rank_grids(found: Sequence[Family]) -> list[Table]:
    """One table per family, methods down, budgets across: accuracy and the places that the tests leave open."""
    return [_grid(f"ranks-{number}", family) for number, family in enumerate(found, 1)]


def _grid(name: str, family: Family) -> Table:
    methods = sorted({rank.group.called for budget in family.budgets for rank in budget.ranks})
    columns = [Column("Method")]
    for i, budget in enumerate(family.budgets):
        heading = "Accuracy % at MACs removed"
        columns.append(Column(f"{100 * budget.low:.0f} %", numeric=True, group=heading, starts=not i))
    rows = [[Cell(method), *(_place(budget, method) for budget in family.budgets)] for method in methods]
    notes = ("Below each accuracy: the places that the tests leave open", *family.flips)
    return Table(name, f"{family.model} on {family.dataset}, {family.schedule}", tuple(columns), rows, notes)


def _place(budget: Budget, method: str) -> Cell:
    for rank in budget.ranks:
        if rank.group.called == method:
            cell = over_seeds(ACCURACY, rank.group.estimate(f"final.{ACCURACY.key}"))
            places = f"{rank.best}" if rank.best == rank.worst else f"{rank.best}–{rank.worst}"
            return Cell(cell.text, cell.value, note=rank.group.name, run=rank.group.id, below=places)
    return Cell()
