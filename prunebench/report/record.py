"""The part of one ``result.json`` that tables, statistics and the page need, checked field by field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.config.groups import NOT_ARGUMENTS
from prunebench.errors import UserError
from prunebench.measure.guarantee import drop
from prunebench.measure.metrics import HEADLINES, METRICS
from prunebench.measure.stages import STAGES
from prunebench.report import schema, untrusted
from prunebench.report.numbers import Point, numbers_of, points_of

CUT_KINDS = ("conv", "depthwise", "grouped", "linear")
"""Kinds of layers with channels that can be kept; a norm layer follows the layer that it reads."""

DISTRIBUTIONS = "distributions"
"""Key of ``budget`` with histograms."""
MAX_BINS = 1000

_GROUPS = ("method", "model", "dataset", "schedule")
_PHASE = ("name", "epochs", "seconds", "train_macs", "best_epoch", "selected_epoch")


class Pool:
    """Values that many runs share (versions, machines, layer names), each kept once and named by its number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """The number of ``value`` (plain JSON data)."""
        text = json.dumps(value, sort_keys=True, default=str)
        number = self._numbers.setdefault(text, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run.

    Attributes:
        folder: where it lies. ``place``: the same below the folder of all runs, for readers.
        published: it is in the open store, measured again and with its commit.
        id: hash of the configuration, the same for all seeds.
        error, traceback: of a run that failed.
        numbers: measured values by name, ``<stage>.<key>`` or ``<key>`` of a metric of the registry, e.g.
            ``final.accuracy``, ``macs_removed``, ``final.method.<name>``; fractions, counts, ms, seconds. What was not
            measured is absent, and so is ``masked`` (share of the final net's parameters that are zero but still
            there) where nothing is masked.
        settings: the configuration as flat keys, e.g. ``method.prune_ratio``.
        guarantee: how the net was chosen and tested, see :mod:`prunebench.measure.guarantee`.
        test_set: what identifies the test examples and their order; runs are compared only if it is equal.
        net: checksum of the final net, weights and plan; empty in results of older code.
        checkpoint: SHA-256 of the pretrained weights that the run started from, else None.
        machine: where the latency was measured (device and threads), empty if it was not.
        facts: numbers in a ``Pool``: ``settings`` (of the method), ``command``, ``git``, ``versions``, ``hardware``,
            ``guarantee``, ``cost`` (what is not in ``numbers``), ``not_pruned``, ``budget``, ``distributions`` (of it),
            ``data``, ``published`` (how it was checked), ``phases``, ``layers`` (name, kind, dense channels),
            ``expected`` (the paper's values of the row).
        kept: kept output channels of the layers that ``facts["layers"]`` names, in that order.
        points: further operating points of the trained net.
    """

    folder: Path
    place: str
    published: bool
    id: str
    seed: int
    status: str
    error: str | None
    traceback: str | None
    method: str
    model: str
    dataset: str
    schedule: str
    row: str | None
    expected: Mapping[str, Any] | None
    started: str
    numbers: Mapping[str, float]
    interval: tuple[float, float] | None
    guarantee: Mapping[str, Any]
    settings: Mapping[str, Any]
    test_set: str
    net: str
    checkpoint: str | None
    machine: str
    facts: Mapping[str, int]
    kept: tuple[int | None, ...]
    points: tuple[Point, ...]

    @property
    def key(self) -> str:
        """Unique among the runs of a report."""
        return f"{self.id}/{self.seed}"

    @property
    def measured(self) -> bool:
        """True if the run ended with numbers."""
        return self.status != "failed"


def from_result(result: Mapping[str, Any], folder: Path, place: str, pool: Pool, *, published: bool = False) -> Record:
    """The record of ``result`` (schema 1, status checked).

    Raises:
        UserError: a field that every result has is missing, or one is not what it should be.
    """
    schema.check(result)
    run, row, expected = result["run"], result.get("row"), result.get("expected")
    numbers = dict(numbers_of(result))
    if result["status"] != "failed":
        _check_complete(numbers)
    layers, kept = _layers(result)
    facts = {**_facts(result, run), "layers": layers, "expected": _published(expected)}
    return Record(
        folder=folder,
        place=place,
        published=published,
        id=run["id"],
        seed=run["seed"],
        status=result["status"],
        error=result.get("error"),
        traceback=result.get("traceback"),
        **{key: sys.intern(result[key]["name"]) for key in _GROUPS},
        row=row,
        expected=expected,
        started=run.get("started") or "",
        numbers=numbers,
        interval=_interval(result),
        guarantee=_guarantee(result),
        settings={sys.intern(key): value for key, value in _settings(result)},
        test_set=_test_set(result),
        net=str(result.get("net_sha256") or ""),
        checkpoint=_checkpoint(result),
        machine=_machine(result),
        facts={name: pool.add(value) for name, value in facts.items() if value},
        kept=kept,
        points=tuple(points_of(result)),
    )


def _check_complete(numbers: Mapping[str, float]) -> None:
    for stage in (stage.name for stage in STAGES.values() if not stage.optional):
        if not any(f"{stage}.{metric.key}" in numbers for metric in HEADLINES):
            raise UserError(f"metrics.{stage} has neither {' nor '.join(metric.key for metric in HEADLINES)}")


def _facts(result: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "settings": {key.partition(".")[2]: value for key, value in untrusted.flat(_own(result, "method"), "method")},
        **{name: run.get(name) for name in ("command", "git", "versions", "hardware")},
        "cost": _cost_facts(result),
        "guarantee": _guarantee(result),
        **{name: result.get(name) for name in ("not_pruned", "data", "published")},
        "budget": {key: value for key, value in _budget(result).items() if key != DISTRIBUTIONS},
        DISTRIBUTIONS: _distributions(result),
        "phases": [{key: phase.get(key) for key in _PHASE} for phase in untrusted.objects(result, "phases")],
    }


def _budget(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return untrusted.mapping(result, "budget", optional=True)


def _distributions(result: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Name -> ``edges`` of bins, ``counts`` and ``cdf``, for the page to draw."""
    found = {}
    for name, given in untrusted.mapping(_budget(result), f"budget.{DISTRIBUTIONS}", optional=True).items():
        path = f"budget.{DISTRIBUTIONS}.{name}"
        values = given if isinstance(given, Mapping) else {}
        lists = {key: values.get(key) for key in ("edges", "counts", "cdf")}
        sizes = [len(item) if isinstance(item, list) else 0 for item in lists.values()]
        if not 1 < sizes[0] <= MAX_BINS or sizes[1:] != [sizes[0] - 1] * 2 or not name:
            raise UserError(f"{path} must have edges of at most {MAX_BINS} bins, and counts and cdf of each")
        found[name] = {key: [untrusted.number(value, path) for value in item or ()] for key, item in lists.items()}
    return found


def _cost_facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a method says about the final net's cost beside the counts, for example where it depends on the sample."""
    final = untrusted.mapping(untrusted.mapping(result, "cost", optional=True), "cost.final", optional=True)
    counted = {metric.key for metric in METRICS.values() if metric.place == "cost"}
    return {key: value for key, value in final.items() if key not in (*counted, "per_layer")}


def _interval(result: Mapping[str, Any]) -> tuple[float, float] | None:
    value = (result.get("guarantee") or {}).get("accuracy_interval_95")
    return None if value is None else (value[0], value[1])


def _guarantee(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the result says about its own worth; what the paired test shows is told anew from its counts."""
    found = dict(result.get("guarantee") or {})
    final = untrusted.mapping(untrusted.mapping(result, "metrics", optional=True), "metrics.final", optional=True)
    number = round(final.get("num_samples") or 0)
    if number and (test := found.get("against")):
        found["against"] = {**test, **drop(test["b"], test["c"], number)}
    return found


def _layers(result: Mapping[str, Any]) -> tuple[list[list[Any]], tuple[int | None, ...]]:
    """``[name, kind, dense channels or None]`` and the kept channels of each layer that has channels."""
    rows = untrusted.objects(untrusted.mapping(result, "cost", optional=True), "cost.per_layer")
    rows = [row for row in rows if row.get("kind") in CUT_KINDS]
    names = [[row.get("layer"), row.get("kind"), row.get("dense_out_channels")] for row in rows]
    kept = [row.get("out_channels") for row in rows]
    return names, tuple(value if isinstance(value, int) else None for value in kept)


def _settings(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("method", "model", "dataset"):
        yield from untrusted.flat(_own(result, group), group)
    for group in ("teacher", "trainer"):
        yield from untrusted.flat(result.get(group), group)
    for phase in untrusted.objects(result, "phases"):
        yield from untrusted.flat(phase.get("settings"), f"phases.{phase.get('name')}")


def _published(expected: Any) -> dict[str, Any] | None:
    """The paper's values of the run's row with their provenance, without which they are never shown."""
    if not isinstance(expected, Mapping) or not isinstance(expected.get("reported"), Mapping):
        return None
    return {"source": str(expected.get("source") or "unknown source"), "reported": dict(expected["reported"])}


def _own(result: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Settings of a config group, without what only names it or only offers defaults to the schedules."""
    settings = untrusted.mapping(untrusted.mapping(result, group), f"{group}.settings", optional=True)
    return {key: value for key, value in settings.items() if key not in ("_target_", *NOT_ARGUMENTS["method"])}


def _test_set(result: Mapping[str, Any]) -> str:
    data = untrusted.mapping(result, "data", optional=True)
    # number and labels last: the bits of a published run know no more of their examples
    return ":".join(str(data.get(key)) for key in ("name", "test_inputs_sha256", "num_test", "test_labels_sha256"))


def _checkpoint(result: Mapping[str, Any]) -> str | None:
    pretrained = untrusted.mapping(untrusted.mapping(result, "model"), "model.pretrained", optional=True)
    return str(pretrained["sha256"]) if pretrained.get("sha256") else None


def _machine(result: Mapping[str, Any]) -> str:
    latency = untrusted.mapping(result, "latency", optional=True)
    parts = [latency.get("device_name"), latency.get("device")]
    number = latency.get("threads")
    threads = f"{number} thread{'s' if number != 1 else ''}" if number else None
    return " · ".join(str(part) for part in (*parts, threads) if part)
