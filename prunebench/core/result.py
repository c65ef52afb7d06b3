"""``result.json``: the contract between a run and everything that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.disk.atomic import read_json
from prunebench.errors import UserError

SCHEMA = 1
STATUSES = ("complete", "failed", "missed_target")
FILE = "result.json"
MASKED = 0.01
"""A net is called masked if more than this share of its parameters is exactly zero but still there."""


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a run folder, with its schema checked.

    Raises:
        UserError: there is none, it is broken, or it has another schema.
    """
    result = read_json(folder / FILE)
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or result.get("status") not in STATUSES:
        raise UserError(f"{folder / FILE} is not a result of schema {SCHEMA}; delete it to run again")
    return result


def is_complete(folder: Path) -> bool:
    """True if the run in ``folder`` has ended with numbers (``failed`` and interrupted runs are run again)."""
    if not (folder / FILE).exists():
        return False
    return bool(read_result(folder)["status"] != "failed")


def masked_share(cost: Mapping[str, Any]) -> float:
    """Share of the parameters of a net (``cost.final``) that are zero but still there; 0 below :data:`MASKED`.

    Such a net has fewer connections, but is neither smaller nor faster than a net without zeros.
    """
    params, nonzero = cost.get("params"), cost.get("nonzero_params")
    if not params or nonzero is None or 1 - nonzero / params <= MASKED:
        return 0.0
    return float(1 - nonzero / params)


def removed(cost: Mapping[str, Any]) -> str:
    """What is gone in one line, and loudly what is only masked."""
    text = f"MACs removed {100 * cost['macs_removed']:.2f} %, parameters removed {100 * cost['params_removed']:.2f} %"
    share = masked_share(cost["final"])
    return f"{text}, MASKED: {100 * share:.2f} % of those that are left are zero but still there" if share else text


def shown_stages(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns of the closing table.

    ``before_cut`` only where the method has trained the whole net, ``saved_net`` only where ``final`` is a mean.
    """
    stages = ("dense", "before_cut", "pruned", "final", "saved_net")
    return tuple(stage for stage in stages if stage in result["metrics"] or stage in ("dense", "pruned", "final"))


def summary(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of the closing table: a label and a cell for each of ``shown_stages``; percent only here."""
    metrics, cost, latency = result["metrics"], result["cost"], result.get("latency") or {}
    stages = shown_stages(result)

    def cells(values: Mapping[str, Any], key: str, form: str, scale: int = 1) -> list[str]:
        picked = [(values.get(stage) or {}).get(key) for stage in stages]
        return ["–" if value is None else form.format(value * scale) for value in picked]

    def inner(group: str, key: str) -> list[str]:
        return cells({stage: (metrics.get(stage) or {}).get(group) for stage in stages}, key, "{:.4f}")

    rows = [
        ("test accuracy %", cells(metrics, "accuracy", "{:.2f}", 100)),
        ("bits per character", cells(metrics, "bpc", "{:.4f}")),
        ("top-5 %", cells(metrics, "top5", "{:.2f}", 100)),
        ("NLL", cells(metrics, "nll", "{:.4f}")),
        ("ECE %", cells(metrics, "ece", "{:.2f}", 100)),
        ("error AUROC (entropy)", inner("uncertainty", "error_auroc_entropy")),
        ("OOD AUROC (entropy)", inner("ood", "auroc_entropy")),
        ("MACs", cells(cost, "macs", "{:,}")),
        ("MACs, all predictions", cells(cost, "macs_all_predictions", "{:,}")),
        ("parameters", cells(cost, "params", "{:,}")),
        ("non-zero parameters", cells(cost, "nonzero_params", "{:,}")),
        ("latency ms, batch 1", cells(latency, "batch_1_ms", "{:.2f}")),
        ("latency ms, batch 64", cells(latency, "batch_64_ms", "{:.1f}")),
    ]
    return [(label, row) for label, row in rows if any(cell != "–" for cell in row)]
