"""Pictures of one run for its logger: how it was trained, how its confidence fits, what is left of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from prunebench.measure.metrics import METRICS, VALIDATION

NUM_BINS = 15
_FILE = "predictions.npz"


def draw(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Figure]:
    """Title → picture; those without data are left out.

    Args:
        result: the content of ``result.json``. ``history``: a record per epoch, as in ``metrics.csv``.
        folder: of the run, where its predictions lie.
    """
    layers = (result.get("cost") or {}).get("per_layer") or []
    found = {
        "training": _training(history) if history else None,
        "reliability": _reliability(folder / _FILE) if (folder / _FILE).exists() else None,
        "kept channels": _kept(layers) if layers else None,
    }
    return {title: figure for title, figure in found.items() if figure is not None}


def _training(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The validation metrics over all epochs, one panel each; phases one behind the other."""
    names = [name for name in dict.fromkeys(key for row in history for key in row) if name.startswith(VALIDATION)]
    names = [*names, "lr"]
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for panel, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        metric = METRICS.get(name.removeprefix(VALIDATION))
        values = [row.get(name) for row in history]
        scale = 1.0 if metric is None else metric.unit.scale
        panel.plot(range(1, len(values) + 1), [np.nan if v is None else scale * float(v) for v in values], marker=".")
        panel.set(xlabel="epoch", title=name if metric is None else f"validation: {metric.heading}")
        for epoch, (row, before) in enumerate(zip(history[1:], history, strict=False), 1):
            if row.get("phase") != before.get("phase"):
                panel.axvline(epoch + 0.5, color="0.7", linestyle=":")
    return figure


def _reliability(path: Path) -> Figure | None:
    """Accuracy in bins of confidence, beside the diagonal of a net that knows how right it is."""
    with np.load(path, allow_pickle=False) as arrays:
        if "confidence" not in arrays:
            return None
        confidence, correct = arrays["confidence"].astype(float), arrays["correct"]
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    right = np.bincount(bins, weights=correct, minlength=NUM_BINS) / np.maximum(counts, 1)
    figure = Figure(figsize=(4, 4), layout="constrained")
    panel = figure.subplots()
    panel.bar(edges[:-1], right, width=1 / NUM_BINS, align="edge", edgecolor="white")
    panel.plot([0, 1], [0, 1], color="0.5", linestyle="--")
    panel.set(xlabel="confidence", ylabel="accuracy", title="reliability on the test set", xlim=(0, 1), ylim=(0, 1))
    return figure


def _kept(layers: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Output channels of each layer: what is left, in front of what the dense net has."""
    sized = [row for row in layers if row.get("dense_out_channels")]
    if not sized:
        return None
    figure = Figure(figsize=(max(5.0, 0.18 * len(sized)), 3), layout="constrained")
    panel = figure.subplots()
    panel.bar(range(len(sized)), [row["dense_out_channels"] for row in sized], color="0.85", label="dense")
    panel.bar(range(len(sized)), [row.get("out_channels") or 0 for row in sized], label="kept")
    panel.set(xlabel="layer, in the order of execution", ylabel="channels", title="kept channels")
    panel.legend(frameon=False)
    return figure
