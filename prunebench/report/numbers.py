"""The measured values of one ``result.json`` by name: those of the registry, and what a method reports of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prunebench.core.result import masked_share
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS, OWN, Metric, Shown, in_order, is_number
from prunebench.measure.stages import STAGES
from prunebench.report import untrusted

_READ: Mapping[str, list[Metric]] = {
    place: [metric for metric in METRICS.values() if metric.place == place and metric.shown != "result"]
    for place in ("metrics", "cost", "latency")
}


class Point(NamedTuple):
    """A further operating point of a trained net: its metrics by key, as a stage has them, and what it was set to."""

    name: str
    numbers: Mapping[str, float]
    settings: Mapping[str, str | float]


def numbers_of(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every measured value with its name; null is absent, another type than a number is an error."""
    for place, metrics in _READ.items():
        source = untrusted.mapping(result, place, optional=True)
        for stage in STAGES.values():
            if place == "metrics" or stage.costed:
                path = f"{place}.{stage.name}"
                values = untrusted.mapping(source, path, optional=True)
                found = [(metric.key, _value(values, metric, path)) for metric in metrics if metric.staged]
                yield from ((f"{stage.name}.{key}", value) for key, value in found if value is not None)
                own = _own(values, path) if place == "metrics" else ()
                yield from ((f"{stage.name}.{key}", value) for key, value in own)
        whole = [(metric.key, _value(source, metric, place)) for metric in metrics if not metric.staged]
        yield from ((key, value) for key, value in whole if value is not None)
    yield from _single(result)


def points_of(result: Mapping[str, Any]) -> Iterator[Point]:
    """The further operating points of the trained net, with the metrics of a stage that each of them has."""
    for number, point in enumerate(untrusted.objects(result, "points")):
        numbers: dict[str, float] = {}
        for place in ("metrics", "cost"):
            path = f"points.{number}.{place}"
            values = untrusted.mapping(point, path, optional=True)
            found = ((metric.key, _value(values, metric, path)) for metric in _READ[place] if metric.staged)
            numbers |= {key: value for key, value in found if value is not None}
            numbers |= dict(_own(values, path)) if place == "metrics" else {}
        name = point.get("name")
        if not isinstance(name, str):
            raise UserError(f"points.{number}.name is {untrusted.short(name)}, not a text")
        given = untrusted.mapping(point, f"points.{number}.settings", optional=True)
        yield Point(name, numbers, {k: v for k, v in given.items() if isinstance(v, str) or is_number(v)})


def metrics_of(found: Iterable[Mapping[str, float]], *shown: Shown) -> list[Metric]:
    """The metrics of the stages that are ``shown`` so, with those that methods report of themselves in ``found``."""
    keys = (name.partition(".")[2] for numbers in found for name in numbers)
    return in_order((key for key in keys if key.startswith(f"{OWN}.")), *shown)


def _value(values: Mapping[str, Any], metric: Metric, path: str) -> float | None:
    """The value of ``metric`` in ``values``, which lie at ``path``."""
    group, _, name = metric.key.rpartition(".")
    if group:
        path = f"{path}.{group}"
        values = untrusted.mapping(values, path, optional=True)
    value = values.get(name)
    if value is not None and untrusted.number(value, f"{path}.{name}") not in metric.possible:
        raise UserError(f"{path}.{name} is {untrusted.short(value)}; it must be a number{metric.possible}")
    return value


def _own(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, float]]:
    """What a method reports of itself, under its own names behind ``method.``."""
    reported = untrusted.mapping(values, f"{path}.{OWN}", optional=True)
    for name, value in reported.items():
        if is_number(value):
            yield f"{OWN}.{name}", untrusted.number(value, f"{path}.{OWN}.{name}")


def _single(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of the whole run that are no metrics of its net."""
    cost = untrusted.mapping(untrusted.mapping(result, "cost", optional=True), "cost.final", optional=True)
    single: dict[str, Any] = {
        "seconds": untrusted.mapping(result, "run").get("seconds"),
        "max_abs_diff": untrusted.mapping(result, "equivalence", optional=True).get("max_abs_diff"),
        "masked": masked_share(cost) or None,  # both counts have been checked above
    }
    for key in ("epochs", "train_macs"):  # of all phases together
        spent = [phase[key] for phase in untrusted.objects(result, "phases") if phase.get(key) is not None]
        single[key] = sum(untrusted.number(value, f"phases.{key}") for value in spent) if spent else None
    for name, value in single.items():
        if value is not None:
            yield name, untrusted.number(value, name)
