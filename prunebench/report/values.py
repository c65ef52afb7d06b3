"""The published values that we can set ours beside: what they are called, how they look, how ours is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prunebench.measure.metrics import BITS, COUNT, FRACTION, METRICS, NATS, NUMBER, RATIO
from prunebench.report.configurations import Estimate, Group, estimate
from prunebench.report.record import Record
from prunebench.rows.fields import DROPS, FIELDS, MEASURED

_STORED: Mapping[str, str] = {
    name: metric.key if stage is None else f"{stage.name}.{metric.key}" for name, (stage, metric) in MEASURED.items()
}
"""Published name → the name of the same value in a record."""
_AROUND = ("dense_{}", "{}", "{}_drop", "sparse_{}", "pruned_{}")
_SIZES = (
    *("dense_macs", "macs", "dense_flops", "flops", "macs_removed", "macs_kept"),
    *("dense_params", "params", "params_removed", "compression"),
)
_QUALITY = [name.format(metric.key) for metric in METRICS.values() if metric.place == "metrics" for name in _AROUND]
ORDER = tuple(name for name in (*_QUALITY, *_SIZES) if name in FIELDS)
"""Of the columns; other values follow."""
_WORDS = {"dense_flops": "Dense FLOPs", "flops": "FLOPs", "macs_kept": "MACs kept", "compression": "Compression"}

_MARKS = {
    **dict.fromkeys((COUNT.name, NATS.name, BITS.name, NUMBER.name), ""),
    FRACTION.name: FRACTION.mark,
    RATIO.name: " ×",
}
"""What a heading says of the unit; other units stand in brackets."""


def heading(key: str) -> str:
    """The published value ``key`` over a column, with its unit."""
    unit = FIELDS[key].unit
    return _title(key) + _MARKS.get(unit, f" ({unit})")


def _title(key: str) -> str:
    if key in DROPS:
        return f"{DROPS[key].title} drop"
    if key not in MEASURED:
        return _WORDS.get(key, key.replace("_", " "))
    stage, metric = MEASURED[key]
    words = metric.title or metric.label
    if stage is None or not stage.prefix:
        return words
    inner = words if words[1].isupper() else words[0].lower() + words[1:]
    return f"{stage.prefix.rstrip('_').capitalize()} {inner}"


_COMPUTED: Mapping[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    **{
        name: ((f"dense.{metric.key}", f"final.{metric.key}"), lambda dense, final: dense - final)
        for name, metric in DROPS.items()
    },
    "flops": (("final.macs",), lambda macs: 2 * macs),
    "dense_flops": (("dense.macs",), lambda macs: 2 * macs),
    "macs_kept": (("macs_removed",), lambda removed: 1 - removed),
    # the papers count what is not zero, whether the rest was cut or only zeroed
    "compression": (("dense.params", "final.nonzero_params"), lambda dense, left: dense / max(1, left)),
}


def ours(group: Group, key: str) -> Estimate | None:
    """Our value of the published ``key`` over seeds; None if we do not measure it."""
    if key in _STORED:
        return group.estimate(_STORED[key])
    if key not in _COMPUTED:
        return None
    names, function = _COMPUTED[key]

    def value(record: Record) -> float | None:
        found = [record.numbers.get(name) for name in names]
        return None if None in found else function(*found)

    found = [value(record) for record in group.records]
    return estimate([number for number in found if number is not None])


def grown(groups: Iterable[tuple[str, Group]]) -> list[str]:
    """The note on a negative share of parameters removed, with the names of the groups that have one; else none."""
    removed = [(name, item.estimate("params_removed")) for name, item in groups]
    names = dict.fromkeys(name for name, found in removed if found is not None and found.mean < 0)
    if not names:
        return []
    return [
        f"Params removed is below 0 for {', '.join(names)}: the final net has more parameters than the dense one, "
        "since what a method adds counts; a Bayesian layer has two for each weight, a mean and a spread"
    ]


def form(key: str, value: float, sd: float | None = None) -> str:
    """``value`` (units of the store) as text: fractions in percent, counts in K, M or G, others as papers print them.

    The digits of a published value are the paper's, so that ours beside it has no more than it needs.
    """
    field = FIELDS[key]
    if field.unit == FRACTION.name:
        spread = f" ± {100 * sd:.{field.digits}f}" if sd is not None and field.digits > 1 else ""
        return f"{100 * value:.{field.digits}f}{spread}".replace("-", "−")
    if field.unit == COUNT.name:
        for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
            if value >= limit:
                return f"{value / limit if letter != 'K' else value / 1e3:.2f} {letter}"
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("-", "−")
