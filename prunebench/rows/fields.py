"""The vocabulary of a rows file: which keys a row may have, and the unit of each published value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from prunebench.config.arguments import fit
from prunebench.config.ranges import Among, Range
from prunebench.errors import UserError, nearest
from prunebench.measure.metrics import ACCURACY, COUNT, FRACTION, METRICS, MS, NATS, RATIO, TOP5, Metric
from prunebench.measure.stages import STAGES, Stage

Value = float | int | tuple[float, ...]
"""A published value, or several of them: one for each seed, layer or point named in ``at``."""

KINDS = {
    "own": "the paper's method",
    "baseline": "a net that nothing was done to",
    "quoted": "another method, or a number of somebody else; never ranked, never run",
}
SOURCES = {
    "official-repo": "read in the authors' repository",
    "secondary": "read elsewhere, see url",
    "abstract": "the abstract",
    "recall": "from memory, with a confidence; never shown without that mark",
}
CONFIDENCES = ("high", "medium", "low")
SELECTIONS = {
    "best_test": "the paper's number is that of the epoch that was best on the test set, ours that of the last epoch",
}
"""How a paper chose the net that it reports, where we do not choose so; named beside each difference."""


@dataclass(frozen=True)
class Field:
    """A value that papers publish.

    Attributes:
        unit: of the store, a name of :class:`prunebench.measure.metrics.Unit` or a word.
        low, high: what it can be at all.
        digits: of a fraction as percent, as papers print it.
    """

    unit: str
    low: float = 0.0
    high: float = 1e15
    digits: int = 1


_SHARE = Field(FRACTION.name, high=1.0)
_COUNT, _RATIO, _MS = Field(COUNT.name), Field(RATIO.name), Field(MS.name)


def _of(metric: Metric) -> Field:
    found = _SHARE if metric.unit is FRACTION else Field(metric.unit.name)
    return replace(found, digits=metric.digits or 0)


MEASURED: Mapping[str, tuple[Stage | None, Metric]] = {
    **{
        stage.prefix + metric.key: (stage, metric)
        for metric in METRICS.values()
        for stage in STAGES.values()
        if metric.staged and not metric.nested and metric.better and metric.shown in ("summary", "detail")
        if stage.prefix is not None and (metric.place == "metrics" or (metric.place == "cost" and stage.costed))
    },
    **{key: (None, METRICS[key]) for key in ("macs_removed", "params_removed")},
}
"""What papers publish and every run measures: a metric, with the prefix of its stage."""

DROPS: Mapping[str, Metric] = {f"{metric.key}_drop": metric for metric in (ACCURACY, TOP5)}
"""Dense minus pruned, of which metric; negative where the pruned net is better."""

FIELDS: Mapping[str, Field] = {
    **{name: _of(metric) for name, (_, metric) in MEASURED.items()},
    # further accuracies, and spreads over seeds
    **dict.fromkeys(["accuracy_sd", "dense_accuracy_sd", "train_accuracy"], _of(ACCURACY)),
    **dict.fromkeys(["adversarial_accuracy_white", "adversarial_accuracy_black"], _of(ACCURACY)),
    "average_precision": _SHARE,
    **{name: replace(_of(metric), low=-1.0) for name, metric in DROPS.items()},
    "accuracy_gain": replace(_of(ACCURACY), low=-1.0),
    "false_negatives_removed": replace(_SHARE, low=-1.0),
    # sizes: what a count is says the row's convention
    **dict.fromkeys(["macs_thop", "dense_macs_thop", "flops", "dense_flops", "prunable_params"], _COUNT),
    **dict.fromkeys(["variational_params", "gates"], _COUNT),
    **dict.fromkeys(["sparsity", "latency_removed"], _SHARE),
    **dict.fromkeys(["macs_kept", "macs_kept_old", "kept_per_layer", "sparsity_per_layer"], _SHARE),
    # above 1 for nets that need more than the dense one
    "memory_kept": replace(_SHARE, high=10.0),
    **dict.fromkeys(["speedup", "compression"], _RATIO),
    "log_likelihood_sum": Field(NATS.name, low=-1e15),
    # time, memory and the rest
    **dict.fromkeys(["latency_ms", "dense_latency_ms", "latency_forward_ms", "latency_backward_ms"], _MS),
    **dict.fromkeys(["memory_mb", "dense_memory_mb"], Field("MB")),
    "seconds_per_epoch": Field("s"),
    **dict.fromkeys(["vulnerability_white", "vulnerability_black"], Field("mean absolute distance")),
    **dict.fromkeys(["gradient_variance_top_10", "gradient_variance_top_100"], Field("variance")),
    **dict.fromkeys(["gradient_variance_bottom_10", "gradient_variance_bottom_100"], Field("variance")),
}
"""Published values by name."""


def values(found: Any, where: str) -> dict[str, Value]:
    """Published values, checked: known names, numbers, inside the range of their unit.

    Raises:
        UserError: names the row and the value.
    """
    result: dict[str, Value] = {}
    for name, value in mapping(found, where).items():
        if name not in FIELDS:
            raise UserError(f"{where}.{name} is no known value{nearest(name, FIELDS)}")
        field = FIELDS[name]
        items = value if isinstance(value, list) else [value]
        for item in items:
            limits = Range(low=field.low, high=field.high, meaning=field.unit)
            fit(item, Annotated[float, limits], f"{where}.{name}")
            if field.unit == COUNT.name and not float(item).is_integer() and len(items) == 1 and item > 1e6:
                raise UserError(f"{where}.{name} is a count and must be whole, got {item!r}")
        result[name] = tuple(items) if isinstance(value, list) else value
    return result


def mapping(found: Any, where: str) -> dict[str, Any]:
    """``found`` itself if it maps texts to something (None = empty)."""
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{where} must be a mapping, got {found!r}")
    return found


def text(found: Any, where: str, *, allowed: Sequence[str] | Mapping[str, str] | None = None) -> str:
    """``found`` itself if it is a text that is not empty, and one of ``allowed``."""
    if not isinstance(found, str) or not found.strip() or found == "???":
        raise UserError(f"{where} must be a text, got {found!r}")
    return found if allowed is None else str(fit(found, Annotated[str, Among(allowed)], where))


def known_keys(found: Mapping[str, Any], known: Collection[str], where: str, *, needed: Sequence[str] = ()) -> None:
    """Refuse keys that nobody reads, and a needed one that is absent."""
    for key in found:
        if key not in known:
            raise UserError(f"{where}.{key} is an unknown key{nearest(key, known)}")
    for key in needed:
        if key not in found:
            raise UserError(f"{where}.{key} is missing")
