"""What a set of runs can support, after the critics of the field (Blalock et al. 2020, Wang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.config.groups import controls
from prunebench.measure.metrics import TOP5
from prunebench.report.configurations import CLAIM_SEEDS, Group
from prunebench.report.figures import subjects
from prunebench.report.tables import Cell, Column, Table, text

OPERATING_POINTS = 5
"""A trade-off curve has at least so many budgets per method (Blalock et al. 2020, section 6)."""
COLLAPSE = 0.5
"""A method has been pushed to its limit if it lost at least this share of the dense net's accuracy somewhere."""
KINDS = ("random", "magnitude")
"""Controls that a comparison needs beside the methods: the configuration of a method says that it is one."""


def table(groups: Sequence[Group]) -> Table:
    """One line per data set and model: how many methods meet each demand, and what is missing."""
    columns = [Column("Data set"), Column("Model"), Column("Methods", numeric=True)]
    columns += [
        Column(title) for title in ("Seeds", "Operating points", "Baselines", "Base net", "Collapse", TOP5.title)
    ]
    rows = [_line(dataset, model, found) for (dataset, model), found in subjects(groups).items()]
    notes = (
        f"Seeds: configurations with at least {CLAIM_SEEDS} seeds. Operating points: methods with at least "
        f"{OPERATING_POINTS} budgets. Baselines: random and magnitude pruning. Base net: all runs start from one "
        "checkpoint, or each from its own dense net. Collapse: methods pushed until at most half of the dense net's "
        "accuracy is left. Top-5: stored where there are 100 classes or more",
    )
    return Table("checks", "What these runs can support", tuple(columns), rows, notes)


def _line(dataset: str, model: str, groups: Sequence[Group]) -> list[Cell]:
    by_method: dict[str, list[Group]] = {}
    for item in groups:
        by_method.setdefault(item.first.method, []).append(item)
    seeds = sum(len(item.records) >= CLAIM_SEEDS for item in groups)
    curves = sum(len({_budget(item) for item in found}) >= OPERATING_POINTS for found in by_method.values())
    present = {kind for method, kind in controls().items() if method in by_method}
    absent = [kind for kind in KINDS if kind not in present]
    bases = {item.first.checkpoint for item in groups}
    collapsed = sum(any(_collapsed(item) for item in found) for found in by_method.values())
    stored = any(f"final.{TOP5.key}" in item.first.numbers for item in groups)
    return [
        *(text(word) for word in (dataset, model)),
        Cell(str(len(by_method)), len(by_method)),
        _share(seeds, len(groups)),
        _share(curves, len(by_method)),
        Cell(f"no {' and no '.join(absent)}" if absent else "both", chip="warn" if absent else "good"),
        Cell(f"{len(bases)} different" if len(bases) > 1 else "one kind", chip="warn" if len(bases) > 1 else "good"),
        _share(collapsed, len(by_method)),
        Cell("stored" if stored else "not asked for", chip="good" if stored else "off"),
    ]


def _share(count: int, total: int) -> Cell:
    return Cell(f"{count} of {total}", count / total, chip="good" if count == total else "warn")


def _budget(item: Group) -> int:
    """The MACs removed in whole percent: configurations at one budget are one operating point."""
    return round(100 * item.first.numbers.get("macs_removed", 0.0))


def _collapsed(item: Group) -> bool:
    final, dense = item.estimate("final.accuracy"), item.estimate("dense.accuracy")
    return final is not None and dense is not None and final.mean <= COLLAPSE * dense.mean
