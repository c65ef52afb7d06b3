"""Do the cells of a table agree with each other? Drops and shares are computed, never believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

from prunebench.measure.metrics import COUNT, FRACTION
from prunebench.rows.fields import FIELDS, Value
from prunebench.rows.row import Row

COUNT_DIGITS = 2  # significant digits of a count that ends in zeros


@dataclass(frozen=True)
class Contradiction:
    """Two cells that cannot both be right, however they were rounded.

    Attributes:
        row: name of the row or arm.
        what: the cell.
        printed: what the paper prints.
        computed: what its other cells give, ``(low, high)`` over all roundings.
        why: how it was computed.
        note: what the row says about it; None if the row takes the cell for right.
    """

    row: str
    what: str
    printed: float
    computed: tuple[float, float]
    why: str
    note: str | None

    def __str__(self) -> str:
        low, high = self.computed
        shown = f"{(low + high) / 2:.6g}"
        return f"{self.row}: {self.what} is printed as {self.printed:.6g}, {self.why} gives {shown}"


def check_derived(rows: Iterable[Row]) -> list[Contradiction]:
    """All cells that contradict others: derived ones, recomputed ones, and quotations that differ from their source."""
    rows = list(rows)
    by_name = {part.name: part for row in rows for part in (row, *row.arms)}
    found: list[Contradiction] = []
    for row in rows:
        for part in row.parts:
            found += _derived(part)
        found += _recomputed(row)
        if row.same_as in by_name:
            found += _quoted(row, by_name[row.same_as])
    return found


def _derived(row: Row) -> list[Contradiction]:
    found = []
    for what, printed in row.printed.items():
        if isinstance(printed, tuple):
            continue
        computed, why = _compute(row, what)
        if computed and not _meet(interval(what, printed), computed):
            found.append(Contradiction(row.name, what, printed, computed, why, row.misprints.get(what)))
    return found


def _compute(row: Row, what: str) -> tuple[tuple[float, float] | None, str]:
    """Lowest and highest value of a derived cell over all roundings of the cells that it follows from."""
    if what in ("accuracy_drop", "top5_drop"):
        base = what.removesuffix("_drop")
        dense, final = _published(row, f"dense_{base}"), _published(row, base)
        return _range(dense, final, lambda a, b: a - b), f"dense {base} - {base}"
    size = {
        "macs_removed": "flops" if "flops" in row.reported else "macs",
        "params_removed": "params",
        "latency_removed": "latency_ms",
        "compression": "params",
    }.get(what)
    if size is None:
        return None, ""
    small, dense = _published(row, size), _published(row, f"dense_{size}")
    if what == "compression":
        return _range(dense, small, lambda a, b: a / b), "dense / remaining parameters"
    return _range(dense, small, lambda a, b: 1 - b / a), f"1 - {size} / dense {size}"


def _recomputed(row: Row) -> list[Contradiction]:
    """Published sizes against those of the published configuration."""
    found = []
    for what, value in row.recomputed.items():
        name = what.removesuffix("_thop") if row.convention == "thop" else what
        if row.convention == "thop" and what in ("macs", "dense_macs"):
            continue  # the plain count stands beside the paper's own
        published = row.reported.get(name)
        if isinstance(published, int | float) and isinstance(value, int | float):
            low, high = interval(name, published)
            if not low <= value <= high:
                why, note = "the published configuration", row.misprints.get(name)
                found.append(Contradiction(row.name, name, published, (value, value), why, note))
    return found


def _quoted(row: Row, source: Row) -> list[Contradiction]:
    found = []
    for what, value in row.reported.items():
        own = source.reported.get(what, source.printed.get(what))
        computed = interval(what, own) if isinstance(own, int | float) else _compute(source, what)[0]
        if computed and not isinstance(value, tuple) and not _meet(interval(what, value), computed):
            why, note = f"its source {source.name}", row.misprints.get(what)
            found.append(Contradiction(row.name, what, value, computed, why, note))
    return found


def _published(row: Row, name: str) -> tuple[float, float] | None:
    value = row.reported.get(name)
    if value is None and name.startswith("dense_"):
        value = row.dense.get(name, row.dense.get(name.removeprefix("dense_")))
    return None if value is None or isinstance(value, tuple) else interval(name, value)


def interval(name: str, value: Value) -> tuple[float, float]:
    """The numbers that are printed as ``value``: half a unit of its last digit on either side."""
    assert not isinstance(value, tuple)
    number = Decimal(repr(value)).normalize()
    exponent = int(number.as_tuple().exponent)
    field = FIELDS[name]
    if field.unit == FRACTION.name:
        exponent = min(exponent, -field.digits - 2)  # the digits are those of percent
    elif field.unit == COUNT.name:
        exponent = min(exponent, number.adjusted() - COUNT_DIGITS + 1)
    half = Decimal(1).scaleb(exponent) / 2
    return float(number - half), float(number + half)


def _range(a: tuple[float, float] | None, b: tuple[float, float] | None, compute: object) -> tuple[float, float] | None:
    if a is None or b is None:
        return None
    assert callable(compute)
    ends = [float(compute(x, y)) for x, y in product(a, b)]
    return min(ends), max(ends)


def _meet(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] + 1e-12 and b[0] <= a[1] + 1e-12
