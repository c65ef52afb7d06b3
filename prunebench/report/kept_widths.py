"""Which widths training arrives at, from which: one line a run, for methods whose seeds end with different ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.measure.metrics import ACCURACY
from prunebench.report.collect import Collection
from prunebench.report.configurations import Group
from prunebench.report.record import Record
from prunebench.report.summaries import order
from prunebench.report.tables import Cell, Column, Table, text

MAX_LAYERS = 20
"""A net with more layers that have lost channels gets no line: nobody would read it."""
_COLUMNS = (
    *(Column(title) for title in ("Data set", "Model", "Method", "Setting")),
    Column("Seed", numeric=True),
    *(Column(title) for title in ("Layers", "Started with", "Kept")),
    Column("Accuracy %", numeric=True, name="accuracy"),
    Column("MACs", numeric=True, name="macs"),
)
_NOTE = (
    "Layers that have lost channels in some run; methods that leave every seed of a configuration with the same widths "
    f"are left out, and so are nets with more than {MAX_LAYERS} such layers"
)


def table(groups: Sequence[Group], collection: Collection) -> Table:
    """The kept widths of each run, beside those of other seeds and other starting widths of the same method."""
    kinds: dict[tuple[str, ...], list[Group]] = {}
    for item in order(groups):
        r = item.first
        kinds.setdefault((r.dataset, r.model, r.method, r.schedule), []).append(item)
    rows = []
    for items in kinds.values():
        if any(len({record.kept for record in item.records}) > 1 for item in items):
            shown = _shown([record for item in items for record in item.records], collection)
            rows += [_row(item, record, shown, collection) for item in items for record in item.records if shown]
    return Table("kept_widths", "Kept widths by seed and starting width", _COLUMNS, rows, (_NOTE,))


def _layers(record: Record, collection: Collection) -> dict[str, tuple[int, int]]:
    """Layer -> channels in the dense net and in the final one."""
    if "layers" not in record.facts:
        return {}
    known: list[list[Any]] = collection.pool.values[record.facts["layers"]]
    return {
        str(name): (dense, kept)
        for (name, _, dense), kept in zip(known, record.kept, strict=True)
        if isinstance(dense, int) and kept is not None
    }


def _shown(records: Sequence[Record], collection: Collection) -> list[str]:
    """Layers that have lost channels in some of the runs; none where they are too many."""
    cut: dict[str, None] = {}
    for record in records:
        cut |= {name: None for name, (dense, kept) in _layers(record, collection).items() if kept < dense}
    return list(cut) if len(cut) <= MAX_LAYERS else []


def _row(item: Group, record: Record, shown: Sequence[str], collection: Collection) -> list[Cell]:
    sizes = _layers(record, collection)
    started, kept = ("-".join(str(sizes[name][i]) if name in sizes else "0" for name in shown) for i in (0, 1))
    accuracy, macs = (record.numbers.get(f"final.{key}") for key in (ACCURACY.key, "macs"))
    return [
        *(text(word) for word in (record.dataset, record.model, record.method, item.label)),
        Cell(str(record.seed), record.seed),
        *(text(word) for word in (", ".join(shown), started, kept)),
        Cell() if accuracy is None else Cell(ACCURACY.show(accuracy), accuracy),
        Cell() if macs is None else Cell(f"{macs:,.0f}", macs),
    ]
