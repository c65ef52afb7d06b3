"""What a sweep that searches (``hydra/sweeper=optuna``) is told of each run: ``objective=[accuracy,macs]``.

The names are those of :data:`prunebench.measure.metrics.METRICS` that have a better direction, of the final net. Which
way each is to go follows from the metric, so that nobody can search for the worst net by a default. A search chooses,
and what is chosen on the test set is too good there: without a wish it is told the accuracy on the validation split.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunebench.errors import UserError, nearest
from prunebench.measure.metrics import ACCURACY, HEADLINES, METRICS, NLL, Metric

KEY = "objective"
SEARCHING = "hydra/sweeper=optuna"
DIRECTION, SEED, SAMPLER = "hydra.sweeper.direction", "hydra.sweeper.sampler.seed", "hydra/sweeper/sampler"
CHOOSABLE = tuple(metric.key for metric in METRICS.values() if metric.better)
HELD_OUT = "validation."
DEFAULT = (f"{HELD_OUT}accuracy",)
HEADLINE_KEYS = tuple(metric.key for metric in HEADLINES)
USUAL = (*DEFAULT, ACCURACY.key, NLL.key, "macs", "params")
UNSEEDED = "grid"
"""The sampler that tries everything, and has no seed."""


def asked(value: Any) -> tuple[str, ...]:
    """The names in ``objective``, as a configuration has it.

    Raises:
        UserError: a name is unknown or given twice, or the list is empty.
    """
    if value is None:
        return DEFAULT
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in CHOOSABLE:
            raise UserError(
                f"{KEY} must be a metric of the final net with a better direction, or a list of such, for example "
                f"{', '.join(USUAL)}, got {name!r}{nearest(str(name), CHOOSABLE)}"
            )
    if not names or len(set(names)) < len(names):
        raise UserError(f"{KEY} must name one number or several different ones, got {value}")
    return tuple(names)


def directed(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of a search with the directions of what it is told, and with a seed of what it tries.

    So the same command asks for the same runs again, and goes on where it was stopped.

    Raises:
        UserError: other directions were given.
    """
    metrics, given = searched(arguments), _values(arguments)
    if not metrics:
        return list(arguments)
    more = []
    if DIRECTION in given:
        _check_direction(metrics, _read(given[DIRECTION]))
    else:
        more.append(f"{DIRECTION}=[{','.join(_directions(metrics))}]")
    if SEED not in given and given.get(SAMPLER) != UNSEEDED:
        more.append(f"{SEED}=0")
    return [*arguments, *more]


def searched(arguments: Sequence[str]) -> tuple[Metric, ...]:
    """What the search of a command line is told; nothing where it is none."""
    names = asked(_read(_values(arguments).get(KEY, "null"))) if SEARCHING in arguments else ()
    return tuple(METRICS[name] for name in names)


def _values(arguments: Sequence[str]) -> dict[str, str]:
    return {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in arguments}


def check(cfg: DictConfig, sweeper: DictConfig) -> tuple[Metric, ...]:
    """What the search is told of each run of ``cfg``; nothing where neither it nor a direction is given.

    Raises:
        UserError: the ``sweeper`` was given other directions, or the data have no validation split to choose on.
    """
    value, direction = _plain(OmegaConf.select(cfg, KEY)), _plain(sweeper.get("direction"))
    if value is None and direction is None:
        return ()  # a plain sweep
    metrics = tuple(METRICS[name] for name in asked(value))
    _check_direction(metrics, direction)
    held_out = OmegaConf.select(cfg, "dataset.validation") != 0 and OmegaConf.select(cfg, "dataset.num_classes")
    if not held_out and (missing := [metric.key for metric in metrics if metric.key.startswith(HELD_OUT)]):
        raise UserError(
            f"{KEY}={missing[0]} is measured where classes are told apart on a validation split, and "
            f"dataset={cfg.dataset.name} has none here; choose another, for example {KEY}={' or '.join(HEADLINE_KEYS)}"
        )
    return metrics


def _check_direction(metrics: Sequence[Metric], given: Any) -> None:
    found = given if isinstance(given, list) else [given]
    found = [getattr(item, "name", item) for item in found]  # Optuna's own are an enumeration
    if given is not None and found != (wanted := _directions(metrics)):
        raise UserError(
            f"{KEY}={','.join(metric.key for metric in metrics)} is to be found with {DIRECTION}=[{','.join(wanted)}], "
            f"got [{','.join(map(str, found))}]; leave out {DIRECTION}"
        )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def told(result: Mapping[str, Any], metrics: Sequence[Metric]) -> Any:
    """The numbers ``metrics`` of a run, one of them as it is; None without any.

    Raises:
        UserError: one was not measured.
    """
    values = tuple(_of(result, metric) for metric in metrics)
    return values if len(values) > 1 else next(iter(values), None)


def _of(result: Mapping[str, Any], metric: Metric) -> float:
    found = metric.of(result, "final") if metric.staged else metric.within(result.get(metric.place))
    if found is None:
        measured = ", ".join(item.key for item in HEADLINES if item.of(result, "final") is not None)
        raise UserError(f"{KEY}={metric.key} was not measured; choose another, for example {KEY}={measured}")
    return found


def front(results: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> list[int]:
    """Numbers of the ``results`` that no other one beats: as good in all ``metrics``, and better in one."""
    signs = [1 if metric.better == "higher" else -1 for metric in metrics]
    points = [[sign * _of(r, metric) for sign, metric in zip(signs, metrics, strict=True)] for r in results]

    def beaten(point: Sequence[float]) -> bool:
        return any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)

    return [i for i, point in enumerate(points) if not beaten(point)]


def lines(results: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], keys: Collection[str]) -> list[str]:
    """What a search has found, in words: the runs of the :func:`front`, with their settings of ``keys``."""
    kept = [results[i] for i in front(results, metrics)]
    kept.sort(key=lambda result: [_of(result, metric) for metric in metrics])
    names = ", ".join(f"{metric.label} ({metric.better} is better)" for metric in metrics)
    found = [f"{len(kept)} of {len(results)} runs are beaten by no other in {names}:"]
    for result in kept:
        numbers = ", ".join(
            f"{metric.label} {metric.show(_of(result, metric))}{metric.unit.mark}" for metric in metrics
        )
        words = shlex.split(result["run"]["command"])
        found.append(f"  {numbers}: {' '.join(word for word in words if word.partition('=')[0] in keys)}")
    if seen := [
        metric.label for metric in metrics if metric.place == "metrics" and not metric.key.startswith(HELD_OUT)
    ]:
        found.append(
            f"warning: {', '.join(seen)} is too good now, the test set has chosen; {DEFAULT[0]} leaves it alone"
        )
    return found


def _directions(metrics: Sequence[Metric]) -> list[str]:
    return [f"{metric.mode}imize" for metric in metrics]


def _read(text: str) -> Any:
    """The value ``text`` of a word; as a text where Hydra cannot read it, and will say so."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"{KEY}={text}").value()
    except HydraException:
        return text
    return _plain(value)
