"""What each configuration guarantees: exact intervals, the paired test against its dense net, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.measure.guarantee import MARGIN, SEEDS
from prunebench.measure.metrics import ACCURACY, NOTHING
from prunebench.measure.statistics import clopper_pearson, holm
from prunebench.report.configurations import Group
from prunebench.report.summaries import without_empty
from prunebench.report.tables import Cell, Column, Table, p_value, signed, text

LOOKS = {"full": ("full", "good"), "interval_only": ("interval only", "info"), "none": ("none", "warn")}
"""Level → its words and the look of its chip."""


def table(groups: Sequence[Group]) -> Table:
    """One line per configuration; the numbers are those of its lowest seed, one fixed net."""
    columns = [Column(title) for title in ("Net and data", "Schedule", "Method", "Setting", "Row", "Guarantee")]
    columns += [
        Column("Seeds", numeric=True),
        Column(ACCURACY.column, numeric=True, name=ACCURACY.key),
        Column("All hold", numeric=True, name="interval_family"),
        Column("Δ dense", numeric=True, name="accuracy_minus_dense"),
        Column("b", numeric=True),
        Column("c", numeric=True),
        Column("p, McNemar", numeric=True, name="p_mcnemar"),
        Column("p, Holm", numeric=True, name="p_holm"),
        Column(f"Drop ≤ {100 * MARGIN:g}", name="noninferior"),
        Column("Objective"),
    ]
    families: dict[tuple[str, str], list[Group]] = {}
    for item in groups:
        families.setdefault((item.first.dataset, item.first.model), []).append(item)
    rows = [line for _, members in sorted(families.items()) for line in _family(members)]
    return without_empty(Table("guarantees", "What each row guarantees", tuple(columns), rows, (_NOTE,)))


_NOTE = (
    "After the protocol of Asai (arXiv 2209.04049). Numbers are of the net with the lowest seed. Accuracy: with its "
    "exact 95 % interval; all hold: the interval for which all test evaluations of the data set and model hold "
    "together (Bonferroni). b (c) test examples are right only in the final (dense) net of the same run; Holm's "
    f"adjustment is over the data set and model. Drop ≤ {100 * MARGIN:g}: with 95 % confidence no more than that many "
    "points are lost. Full: nothing chosen on the test set, evaluations counted, objective declared, tested against "
    f"the dense net, {SEEDS} seeds"
)


def _family(groups: Sequence[Group]) -> list[list[Cell]]:
    evaluations = sum(int(r.guarantee.get("test_evaluations") or 1) for item in groups for r in item.records)
    tests: list[dict[str, Any]] = [item.first.guarantee.get("against") or {} for item in groups]
    adjusted = iter(holm([test["p"] for test in tests if test]))
    return [
        _line(item, test, next(adjusted) if test else None, evaluations)
        for item, test in zip(groups, tests, strict=True)
    ]


def _line(item: Group, test: dict[str, Any], p_holm: float | None, evaluations: int) -> list[Cell]:
    first = item.first
    level, missing = item.guarantee
    words, chip = LOOKS[level]
    return [
        text(f"{first.model} on {first.dataset}"),
        text(first.schedule),
        Cell(first.method, run=item.id),
        text(item.label),
        text(first.row),
        Cell(words, chip=chip, below="; ".join(missing)),
        Cell(str(len(item.records)), len(item.records)),
        *_accuracy(item, evaluations),
        *_against(test, p_holm),
        text(first.guarantee.get("objective")),
    ]


def _accuracy(item: Group, evaluations: int) -> list[Cell]:
    first = item.first
    accuracy, count = first.numbers.get("final.accuracy"), first.numbers.get("final.num_samples")
    if accuracy is None or count is None or count < 1 or first.interval is None:
        return [Cell(), Cell(note="no interval")]
    wide = clopper_pearson(round(accuracy * round(count)), round(count), family=evaluations)
    return [
        Cell(ACCURACY.show(accuracy), accuracy, below=_range(first.interval)),
        Cell(_range(wide), note=f"{evaluations} test evaluations of this data set and model"),
    ]


def _against(test: dict[str, Any], p_holm: float | None) -> list[Cell]:
    if not test or p_holm is None:
        return [Cell() for _ in range(6)]
    safe = bool(test["noninferior"])
    low, high = test["interval_95"]
    return [
        Cell(
            signed(100 * test["difference"]), test["difference"], below=f"{signed(100 * low)} to {signed(100 * high)}"
        ),
        Cell(str(test["b"]), test["b"]),
        Cell(str(test["c"]), test["c"]),
        Cell(p_value(test["p"]), test["p"]),
        Cell(p_value(p_holm), p_holm),
        Cell("shown" if safe else "not shown", chip="good" if safe else "off"),
    ]


def _range(interval: tuple[float, float]) -> str:
    return NOTHING.join(map(ACCURACY.show, interval))
