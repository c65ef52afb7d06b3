"""A run beside the row that it reproduces: how far, and whether the comparison may be made at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunebench.rows.row import Row

UNITS = {"accuracy": "fraction", "bpc": "bits per character"}
"""What a row may be about, the first that it reports."""
BPC_TOLERANCE = 0.01
"""Bits per character: the last digit that papers print. A row's own tolerance is one of accuracies."""


def compare(result: Mapping[str, Any], row: Row, *, dense_accuracy: float | None = None) -> dict[str, Any]:
    """The run's accuracy (language models: bits per character) beside the paper's, and the other values both have.

    A difference says something about the method only if both started from the same place: it is refused where our
    own dense net misses the paper's by more than the row's tolerance.

    Args:
        result: content of ``result.json``.
        row: the row or arm that it reproduces.
        dense_accuracy: of our own dense net, where the run itself trained none (``schedule=simultaneous``).

    Returns:
        ``paper``, ``ours``, ``difference`` (ours - paper), ``within_tolerance`` (both None if refused), ``refused``
        (the reason, or None), ``units``, ``tolerance``, ``mark`` (provenance of the paper's value), ``baseline``
        (``paper``, ``ours``, ``difference``, ``checked``) and ``others`` (name -> ``paper``, ``ours``, ``difference``,
        ``units``).
    """
    metrics = result.get("metrics") or {}
    metric, paper = _headline(row)
    ours = (metrics.get("final") or {}).get(metric)
    tolerance = row.tolerance if metric == "accuracy" else BPC_TOLERANCE
    own_dense = (metrics.get("dense") or {}).get("accuracy", dense_accuracy)
    baseline = _baseline(row, own_dense)
    refused = _refused(result, row, metric, paper, ours, baseline)
    difference = None if refused or ours is None or paper is None else ours - paper
    return {
        "row": row.name,
        "metric": metric,
        "units": UNITS[metric],
        "paper": paper,
        "ours": ours,
        "difference": difference,
        "within_tolerance": None if difference is None else abs(difference) <= tolerance,
        "refused": refused,
        "tolerance": tolerance,
        "mark": row.mark,
        "baseline": baseline,
        "others": _others(result, row, own_dense),
    }


def describe(result: Mapping[str, Any], row: Row) -> list[str]:
    """What a finished run says about its row: paper, ours, difference, one value a line."""
    found = compare(result, row)
    lines = [f"row {row.name}: {row.table}{f', {row.setting}' if row.setting else ''} ({row.mark})"]
    lines.append(_line(found["metric"], found["paper"], found["ours"], found["units"], found["difference"]))
    if found["within_tolerance"] is not None:
        within = "within" if found["within_tolerance"] else "outside of"
        lines[-1] += f", {within} the tolerance of {_amount(found['tolerance'], found['units'])}"
    if found["refused"]:
        lines[-1] += f"; no difference is given: {found['refused']}"
    for name, other in found["others"].items():
        lines.append(_line(name, other["paper"], other["ours"], other["units"], other["difference"]))
    return lines


def _line(name: str, paper: float | None, ours: float | None, units: str, difference: float | None) -> str:
    text = f"  {name.replace('_', ' ')}: paper {_amount(paper, units)}, ours {_amount(ours, units)}"
    if difference is None:
        return text
    amount = f"{100 * difference:+.2f} points" if units == "fraction" else f"{difference:+,.5g}"
    return f"{text}, difference {amount}"


def _amount(value: float | None, units: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if units == "fraction" else f"{value:,.6g}"


def _headline(row: Row) -> tuple[str, float | None]:
    """What the row is about, and the paper's value; an accuracy that the paper does not give, if it gives neither."""
    accuracy = row.value("accuracy")
    if accuracy is None and row.kind == "baseline":
        accuracy = row.value("dense_accuracy")
    bpc = row.value("bpc")
    return ("bpc", bpc) if accuracy is None and bpc is not None else ("accuracy", accuracy)


def _baseline(row: Row, ours: float | None) -> dict[str, Any]:
    paper = None if row.kind == "baseline" else row.value("dense_accuracy")
    difference = None if paper is None or ours is None else ours - paper
    return {"paper": paper, "ours": ours, "difference": difference, "checked": difference is not None}


def _refused(
    result: Mapping[str, Any],
    row: Row,
    metric: str,
    paper: float | None,
    ours: float | None,
    baseline: Mapping[str, Any],
) -> str | None:
    if row.kind == "quoted":
        return "the row quotes another method; such rows are never compared or ranked"
    if result.get("row") != row.name:
        return f"the run is of {result.get('row') or 'no row'}, not of {row.name}"
    if result.get("status") == "failed":
        return f"the run failed: {result.get('error')}"
    changed = (result.get("expected") or {}).get("changed") or []
    if changed:
        return f"the run has other settings than the row: {', '.join(map(str, changed))}"
    if ours is None:
        return f"the run has no final {metric}"
    if paper is None:
        return f"the paper gives no {metric} for this row"
    if baseline["checked"] and abs(baseline["difference"]) > row.tolerance:
        return (
            f"our dense net has {100 * baseline['ours']:.2f} %, the paper's {100 * baseline['paper']:.2f} %: "
            f"more than {100 * row.tolerance:g} points apart"
        )
    return None


def _others(result: Mapping[str, Any], row: Row, own_dense: float | None) -> dict[str, dict[str, Any]]:
    """What both have beside the accuracy; counts only where the paper counts as we do."""
    final, cost = (result.get("metrics") or {}).get("final") or {}, result.get("cost") or {}
    dense_cost, final_cost = cost.get("dense") or {}, cost.get("final") or {}
    ours: dict[str, tuple[Any, str]] = {name: (final.get(name), "fraction") for name in ("top5", "ece")}
    for name, stage in (("sparse_accuracy", "before_cut"), ("pruned_accuracy", "pruned")):
        ours[name] = ((result.get("metrics") or {}).get(stage) or {}).get("accuracy"), "fraction"
    ours["nll"], ours["bpc"] = (final.get("nll"), "nats"), (final.get("bpc"), "bits per character")
    for name in ("macs_removed", "params_removed"):
        ours[name] = cost.get(name), "fraction"
    accuracy = final.get("accuracy")
    drop = None if accuracy is None or own_dense is None else own_dense - accuracy
    ours["accuracy_drop"] = drop, "fraction"
    ours["params"], ours["dense_params"] = (final_cost.get("params"), "count"), (dense_cost.get("params"), "count")
    if row.convention in ("conv_linear", "flops_two_per_mac"):
        size = "macs" if row.convention == "conv_linear" else "flops"
        ours[size], ours[f"dense_{size}"] = (final_cost.get(size), "count"), (dense_cost.get(size), "count")
    found = {}
    for name, (value, units) in ours.items():
        paper = row.value(name)
        if value is not None and paper is not None:
            found[name] = {"paper": paper, "ours": value, "difference": value - paper, "units": units}
    return found
