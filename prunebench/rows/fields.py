"""The vocabulary of a rows file: which keys a row may have, and the unit of each published value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prunebench.errors import UserError, nearest

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

_SHARE, _CHANGE, _COUNT, _POSITIVE, _NUMBER = (0.0, 1.0), (-1.0, 1.0), (0.0, 1e15), (0.0, 1e15), (-1e15, 1e15)

UNITS: Mapping[str, tuple[str, tuple[float, float]]] = {
    # accuracies: of the dense net, after training with a penalty, right after the cut, at the end
    **dict.fromkeys(
        ["accuracy", "dense_accuracy", "sparse_accuracy", "pruned_accuracy", "train_accuracy", "top5", "dense_top5"],
        ("fraction", _SHARE),
    ),
    **dict.fromkeys(["accuracy_sd", "dense_accuracy_sd"], ("fraction", _SHARE)),
    **dict.fromkeys(["adversarial_accuracy_white", "adversarial_accuracy_black"], ("fraction", _SHARE)),
    "average_precision": ("fraction", _SHARE),
    "ece": ("fraction", _SHARE),
    # dense minus pruned; negative where the pruned net is better
    **dict.fromkeys(["accuracy_drop", "top5_drop", "accuracy_gain", "false_negatives_removed"], ("fraction", _CHANGE)),
    # sizes: what a count is says the row's convention
    **dict.fromkeys(["macs", "dense_macs", "macs_thop", "dense_macs_thop"], ("count", _COUNT)),
    **dict.fromkeys(["flops", "dense_flops", "params", "dense_params", "prunable_params"], ("count", _COUNT)),
    **dict.fromkeys(["variational_params", "gates"], ("count", _COUNT)),
    **dict.fromkeys(["macs_removed", "params_removed", "sparsity", "latency_removed"], ("fraction", _SHARE)),
    **dict.fromkeys(["macs_kept", "macs_kept_old", "kept_per_layer", "sparsity_per_layer"], ("fraction", _SHARE)),
    # above 1 for nets that need more than the dense one
    "memory_kept": ("fraction", (0.0, 10.0)),
    **dict.fromkeys(["speedup", "compression"], ("ratio", _POSITIVE)),
    # likelihoods
    "nll": ("nats", _POSITIVE),
    "bpc": ("bits per character", _POSITIVE),
    "log_likelihood_sum": ("nats", _NUMBER),
    # time, memory and the rest
    **dict.fromkeys(["latency_ms", "dense_latency_ms", "latency_forward_ms", "latency_backward_ms"], ("ms", _POSITIVE)),
    **dict.fromkeys(["memory_mb", "dense_memory_mb"], ("MB", _POSITIVE)),
    "seconds_per_epoch": ("s", _POSITIVE),
    **dict.fromkeys(["vulnerability_white", "vulnerability_black"], ("mean absolute distance", _POSITIVE)),
    **dict.fromkeys(["gradient_variance_top_10", "gradient_variance_top_100"], ("variance", _POSITIVE)),
    **dict.fromkeys(["gradient_variance_bottom_10", "gradient_variance_bottom_100"], ("variance", _POSITIVE)),
}


def values(found: Any, where: str) -> dict[str, Value]:
    """Published values, checked: known names, numbers, inside the range of their unit.

    Raises:
        UserError: names the row and the value.
    """
    result: dict[str, Value] = {}
    for name, value in mapping(found, where).items():
        if name not in UNITS:
            raise UserError(f"{where}.{name} is no known value{nearest(name, UNITS)}")
        unit, (low, high) = UNITS[name]
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int | float) or not low <= item <= high:
                raise UserError(f"{where}.{name} must be a {unit} in [{low:g}, {high:g}], got {item!r}")
            if unit == "count" and not float(item).is_integer() and len(items) == 1 and item > 1e6:
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
    if allowed is not None and found not in allowed:
        raise UserError(f"{where} must be one of {', '.join(allowed)}, got {found!r}{nearest(found, allowed)}")
    return found


def known_keys(found: Mapping[str, Any], known: Collection[str], where: str, *, needed: Sequence[str] = ()) -> None:
    """Refuse keys that nobody reads, and a needed one that is absent."""
    for key in found:
        if key not in known:
            raise UserError(f"{where}.{key} is an unknown key{nearest(key, known)}")
    for key in needed:
        if key not in found:
            raise UserError(f"{where}.{key} is missing")
