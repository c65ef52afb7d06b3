"""The published values that we can set ours beside: what they are called, how they look, how ours is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prunebench.report.configurations import Estimate, Group, estimate
from prunebench.report.record import Record
from prunebench.rows.fields import UNITS

TITLES: Mapping[str, str] = {
    "dense_accuracy": "Dense accuracy",
    "accuracy": "Accuracy",
    "accuracy_drop": "Drop",
    "pruned_accuracy": "Right after the cut",
    "dense_top5": "Dense top-5",
    "top5": "Top-5",
    "top5_drop": "Top-5 drop",
    "bpc": "BPC",
    "nll": "NLL",
    "ece": "ECE",
    "dense_macs": "Dense MACs",
    "macs": "MACs",
    "dense_flops": "Dense FLOPs",
    "flops": "FLOPs",
    "macs_removed": "MACs removed",
    "macs_kept": "MACs kept",
    "dense_params": "Dense parameters",
    "params": "Parameters",
    "params_removed": "Params removed",
    "compression": "Compression",
}
"""Names in the order of the columns; others follow under their own name."""

_STORED = {
    "accuracy": "final.accuracy",
    "dense_accuracy": "dense.accuracy",
    "pruned_accuracy": "pruned.accuracy",
    "top5": "final.top5",
    "dense_top5": "dense.top5",
    "bpc": "final.bpc",
    "nll": "final.nll",
    "ece": "final.ece",
    "macs": "final.macs",
    "dense_macs": "dense.macs",
    "params": "final.params",
    "dense_params": "dense.params",
    "macs_removed": "macs_removed",
    "params_removed": "params_removed",
}
_COMPUTED: Mapping[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "accuracy_drop": (("dense.accuracy", "final.accuracy"), lambda dense, final: dense - final),
    "top5_drop": (("dense.top5", "final.top5"), lambda dense, final: dense - final),
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


def unit(key: str) -> str:
    """What the heading says after the name of the value."""
    kind = UNITS[key][0]
    return {"fraction": " %", "count": "", "ratio": " ×", "nats": "", "bits per character": ""}.get(kind, f" ({kind})")


def form(key: str, value: float, sd: float | None = None) -> str:
    """``value`` (units of the store) as text: fractions in percent, counts in K, M or G."""
    kind = UNITS[key][0]
    if kind == "fraction":
        digits = 2 if "accuracy" in key or key.startswith(("top5", "dense_top5", "ece")) else 1
        spread = f" ± {100 * sd:.2f}" if sd is not None and digits == 2 else ""
        return f"{100 * value:.{digits}f}{spread}".replace("-", "−")
    if kind == "count":
        for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
            if value >= limit:
                return f"{value / limit if letter != 'K' else value / 1e3:.2f} {letter}"
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("-", "−")
