"""A run beside the row that it reproduces: how far, what fails, and whether the comparison may be made at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunebench.measure.guarantee import SEEDS
from prunebench.measure.metrics import ACCURACY, FRACTION, HEADLINES, METRICS, OWN, Metric, metric_of, own_of
from prunebench.rows.fields import FIELDS, MEASURED, SELECTIONS
from prunebench.rows.row import Row
from prunebench.rows.sizes import SIZES, Own, Size, compare_sizes, own_sizes

PRINTED = 0.01
"""The last digit that papers print of a headline that is no fraction. A row's own tolerance is one of fractions."""


def compare(
    result: Mapping[str, Any],
    row: Row,
    *,
    own_dense: float | None = None,
    sizes: Own | None = None,
    num_seeds: int = 1,
) -> dict[str, Any]:
    """The run's accuracy (language models: bits per character) and sizes beside the paper's, and what else both have.

    A difference says something about the method only if both started from the same place: it is refused where our
    own dense net misses the paper's by more than the row's tolerance, and said to be unchecked where there is none.
    A row is reproduced by a complete run of its own settings that is within the tolerance and has the published sizes,
    counted as the row counts.

    Args:
        result: content of ``result.json``.
        row: the row or arm that it reproduces.
        own_dense: accuracy (bits per character) of our own dense net, where the run itself trained none
            (``schedule=simultaneous``).
        sizes: ours as the row counts; None = those of ``result``.
        num_seeds: how many runs ``result`` is the mean of.

    Returns:
        ``paper``, ``ours``, ``difference`` (ours - paper), ``within_tolerance`` (both None if refused), ``refused``
        (the reason, or None), ``reproduced`` (None if refused), ``failed`` (what a reproduction lacks), ``seeds``,
        ``units``, ``tolerance``, ``mark`` (provenance of the paper's value), ``measured`` (see the row), ``selection``
        (how the paper chose its number where we do not, or None), ``baseline`` (``paper``, ``ours``, ``difference``,
        ``checked``, ``why`` it is not), ``sizes`` (a list of :class:`prunebench.rows.sizes.Size`) and ``others`` (name
        -> ``paper``, ``ours``, ``difference``, None if refused, ``units``).
    """
    metric = headline_of(row)
    paper, ours, dense = _published(row, metric), _ours(result, row, metric), metric.of(result, "dense")
    tolerance = row.tolerance if metric.unit is FRACTION else PRINTED
    own_dense = own_dense if dense is None else dense
    baseline = _baseline(row, metric, own_dense)
    refused = _refused(result, row, metric, paper, ours, baseline, tolerance)
    difference = None if refused or ours is None or paper is None else ours - paper
    sizes = own_sizes(result, row) if sizes is None else sizes
    beside = compare_sizes(sizes, row)
    failed = _failed(metric, difference, tolerance, beside, sizes)
    return {
        "row": row.name,
        "metric": metric.key,
        "units": metric.unit.name,
        "paper": paper,
        "ours": ours,
        "difference": difference,
        "within_tolerance": None if difference is None else abs(difference) <= tolerance,
        "refused": refused,
        "reproduced": None if refused else not failed,
        "failed": [] if refused else failed,
        "seeds": num_seeds,
        "tolerance": tolerance,
        "mark": row.mark,
        "measured": dict(row.measured),
        "selection": SELECTIONS[row.selection] if row.selection else None,
        "baseline": baseline,
        "sizes": beside,
        "others": _others(result, row, sizes, own_dense if metric is ACCURACY else None, refused=bool(refused)),
    }


def _ours(result: Mapping[str, Any], row: Row, metric: Metric) -> float | None:
    """What stands beside a published metric: that of the final net, unless the row says otherwise."""
    stage, _, key = row.measured.get(metric.key, f"final.{metric.key}").partition(".")
    return metric_of(key).of(result, stage)


def describe(result: Mapping[str, Any], row: Row) -> list[str]:
    """What a finished run says about its row: paper, ours, difference, one value a line, and the verdict."""
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
    lines += [f"  {head}: {text}" for head, text in remarks(found)]
    return lines


def remarks(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What must be said beside a difference: the verdict with the seeds behind it, and what was not checked."""
    if found["refused"]:
        return []
    seeds = f"{found['seeds']} seed{'s' if found['seeds'] > 1 else ''}"
    few = "" if found["seeds"] >= SEEDS else f", a claim needs {SEEDS}"
    said = [("reproduced", f"{seeds}{few}")]
    if not found["reproduced"]:
        said = [("not reproduced", f"{'; '.join(found['failed'])} ({seeds})")]
    said += [("known difference", f"{_title(size.name)}: {size.note}") for size in found["sizes"] if size.excused]
    if found["measured"]:
        places = " and ".join(f"metrics.{place}" for place in found["measured"].values())
        said.append(("measured", f"ours is {places}, not that of the final net"))
    if found["baseline"]["why"]:
        said.append(("baseline not checked", found["baseline"]["why"]))
    if found["selection"]:
        said.append(("selection", found["selection"]))
    return said


def _failed(metric: Metric, difference: float | None, tolerance: float, beside: list[Size], own: Own) -> list[str]:
    """What keeps a run from being a reproduction of its row."""
    found, units = [], metric.unit.name
    if difference is not None and abs(difference) > tolerance:
        found.append(f"{metric.key} {_gap(difference, units)}, at most {_gap(tolerance, units, sign=False)} allowed")
    for size in beside:
        if size.fails:
            unit = FIELDS[size.name].unit
            found.append(f"{_title(size.name)} {_amount(size.ours, unit)}, in the paper {_amount(size.paper, unit)}")
    return [*found, *(f"{_title(name)} not checked: {why}" for name, why in own.missing.items())]


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words.replace("macs", "MACs").replace("flops", "FLOPs").replace("params", "parameters")


def _line(name: str, paper: float | None, ours: float | None, units: str, difference: float | None) -> str:
    text = f"  {_title(name)}: paper {_amount(paper, units)}, ours {_amount(ours, units)}"
    return text if difference is None else f"{text}, difference {_gap(difference, units)}"


def _gap(difference: float, units: str, *, sign: bool = True) -> str:
    shown = "+" if sign else ""
    return f"{100 * difference:{shown}.2f} points" if units == "fraction" else f"{difference:{shown},.5g}"


def _amount(value: float | None, units: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if units == "fraction" else f"{value:,.6g}"


def headline_of(row: Row) -> Metric:
    """What the row is about: the first headline that it reports; the first of all if it reports none."""
    return next((metric for metric in HEADLINES if _published(row, metric) is not None), HEADLINES[0])


def _published(row: Row, metric: Metric) -> float | None:
    """The paper's value; a row of a dense net may say that it is one of a dense net."""
    found = row.value(metric.key)
    return row.value(f"dense_{metric.key}") if found is None and row.kind == "baseline" else found


def _baseline(row: Row, metric: Metric, ours: float | None) -> dict[str, Any]:
    """Our dense net beside the paper's; a row of a dense net is its own baseline."""
    paper = None if row.kind == "baseline" else row.value(f"dense_{metric.key}")
    difference = None if paper is None or ours is None else ours - paper
    why = None
    if row.kind != "baseline" and difference is None:
        silent = f"the paper gives no {metric.key} of its dense net"
        why = silent if paper is None else "there is no dense net of ours"
    return {"paper": paper, "ours": ours, "difference": difference, "checked": difference is not None, "why": why}


def _refused(
    result: Mapping[str, Any],
    row: Row,
    metric: Metric,
    paper: float | None,
    ours: float | None,
    baseline: Mapping[str, Any],
    tolerance: float,
) -> str | None:
    if row.kind == "quoted":
        return "the row quotes another method; such rows are never compared or ranked"
    if result.get("row") != row.name:
        return f"the run is of {result.get('row') or 'no row'}, not of {row.name}"
    if result.get("status") == "failed":
        return f"the run failed: {result.get('error')}"
    if result.get("status") == "missed_target":
        return f"the run missed its own target{_missed(result.get('budget') or {})}"
    changed = (result.get("expected") or {}).get("changed") or []
    if changed:
        return f"the run has other settings than the row: {', '.join(map(str, changed))}"
    if ours is None:
        return f"the run has no final {metric.key}"
    if paper is None:
        return f"the paper gives no {metric.key} for this row"
    units = metric.unit.name
    if baseline["checked"] and abs(baseline["difference"]) > tolerance:
        limit = f"{100 * tolerance:g} points" if units == "fraction" else f"{tolerance:g}"
        return (
            f"our dense net has {_amount(baseline['ours'], units)}, the paper's {_amount(baseline['paper'], units)}: "
            f"more than {limit} apart"
        )
    return None


def _missed(budget: Mapping[str, Any]) -> str:
    if budget.get("target") is None or budget.get("reached") is None:
        return ""
    return f": {budget['target']:.4g} asked for, {budget['reached']:.4g} reached"


def _others(
    result: Mapping[str, Any], row: Row, own: Own, own_dense: float | None, *, refused: bool
) -> dict[str, dict[str, Any]]:
    """What both have beside the headline; sizes only as the paper counts them, and no differences if refused."""
    ours: dict[str, Any] = {
        name: metric.of(result, stage.name)
        for name, (stage, metric) in MEASURED.items()
        if stage is not None and stage.name != "dense" and metric.place == "metrics"
    }
    accuracy = ACCURACY.of(result, "final")
    ours["accuracy_drop"] = None if accuracy is None or own_dense is None else own_dense - accuracy
    # what a method reports under the name of a published value, and what an attack leaves
    ours |= {key.removeprefix(f"{OWN}."): metric_of(key).of(result, "final") for key in own_of(_final(result))}
    ours |= _under_attack(result)
    ours |= {name: _ours(result, row, METRICS[name]) for name in row.measured}
    ours |= {name: own.values.get(name) for name in SIZES}
    found = {}
    for name, value in ours.items():
        paper = row.value(name)
        if value is not None and paper is not None and name != headline_of(row).key:
            units = FIELDS[name].unit
            difference = None if refused else value - paper
            found[name] = {"paper": paper, "ours": value, "difference": difference, "units": units}
    return found


def _final(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get("metrics") or {}).get("final") or {}


def _under_attack(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Accuracy and vulnerability of the final net under the run's attack, by the names that papers give them."""
    found = _final(result).get("robust")
    access = (found.get("attack") or {}).get("access") if isinstance(found, Mapping) else None
    colour = {"white_box": "white", "black_box": "black"}.get(str(access))
    if colour is None:
        return {}
    names = {"accuracy": "adversarial_accuracy", "vulnerability": "vulnerability"}
    return {f"{name}_{colour}": metric_of(f"robust.{key}").of(result, "final") for key, name in names.items()}
