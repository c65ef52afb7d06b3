"""The measured values of one ``result.json`` by name: those of the registry, and what a method reports of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prunebench.config.ranges import Range
from prunebench.core.result import masked_share
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS, OWN, Metric, Shown, in_order, is_number
from prunebench.measure.stages import STAGES
from prunebench.report import untrusted


class _Sought(NamedTuple):
    """A metric and where it lies in its place: in a group or not, and what it can be."""

    metric: Metric
    group: str
    name: str
    possible: Range


_READ: Mapping[str, list[_Sought]] = {
    place: [
        _Sought(metric, *metric.key.rpartition(".")[::2], metric.possible)
        for metric in METRICS.values()
        if metric.place == place and metric.shown != "result"
    ]
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
                if source.get(stage.name) is None:
                    continue
                values = untrusted.mapping(source, path, optional=True)
                found = (
                    (sought.metric.key, _value(values, sought, path)) for sought in metrics if sought.metric.staged
                )
                yield from ((f"{stage.name}.{key}", value) for key, value in found if value is not None)
                own = _own(values, path) if place == "metrics" else ()
                yield from ((f"{stage.name}.{key}", value) for key, value in own)
        whole = ((item.metric.key, _value(source, item, place)) for item in metrics if not item.metric.staged)
        yield from ((key, value) for key, value in whole if value is not None)
    yield from _single(result)


def points_of(result: Mapping[str, Any]) -> Iterator[Point]:
    """The further operating points of the trained net, with the metrics of a stage that each of them has."""
    for number, point in enumerate(untrusted.objects(result, "points")):
        numbers: dict[str, float] = {}
        for place in ("metrics", "cost"):
            path = f"points.{number}.{place}"
            values = untrusted.mapping(point, path, optional=True)
            sought = (item for item in _READ[place] if item.metric.staged)
            found = ((item.metric.key, _value(values, item, path)) for item in sought)
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


def _value(values: Mapping[str, Any], sought: _Sought, path: str) -> float | None:
    """The value of a metric in the ``values``, which lie at ``path``."""
    _, group, name, possible = sought
    if group:
        if values.get(group) is None:
            return None
        path = f"{path}.{group}"
        values = untrusted.mapping(values, path, optional=True)
    value = values.get(name)
    if value is not None and untrusted.number(value, f"{path}.{name}") not in possible:
        raise UserError(f"{path}.{name} is {untrusted.short(value)}; it must be a number{possible}")
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
