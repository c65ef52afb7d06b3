"""Runs of one configuration with different seeds, and what tells one configuration from another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prunebench.measure.guarantee import level
from prunebench.measure.statistics import Interval, mean_of_seeds
from prunebench.report.method_defaults import method_defaults
from prunebench.report.record import Record
from prunebench.report.strata import Stratum, stratum

CLAIM_SEEDS = 3
"""Fewer seeds than this support no claim (Blalock et al. 2020, appendix B)."""
_ORDER = ("method", "teacher", "phases", "model", "dataset", "trainer")
_DULL = ("_target_", "name")
_MAX_KEYS = 4


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and sample standard deviation (n - 1), None for a single one."""

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def half_width(self) -> float | None:
        """Of the 95 % t interval of the mean; computed when it is asked for, since a report has 10,000 estimates."""
        return mean_of_seeds(self.values).half_width if self.count > 1 else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % t interval of the mean; None for a single seed."""
        half = self.half_width
        return None if half is None else (self.mean - half, self.mean + half)


@dataclass(frozen=True)
class Group:
    """The measured nets of one configuration, ordered by seed.

    Runs that end with the same net (same weights, same plan) are one sample, whatever their seeds: of a one-shot cut of
    one checkpoint, say. The one with the lowest seed stands for all.

    Attributes:
        records: one run for each net.
        label: the settings that tell it from the others of its method, model, data set and schedule.
        repeated: seeds whose runs gave one of these nets again.
        rival: what it is called beside other methods; the method's name, unless that stands for several strata there.
    """

    records: tuple[Record, ...]
    label: str = ""
    repeated: tuple[int, ...] = ()
    rival: str = ""

    @property
    def first(self) -> Record:
        """The run with the lowest seed: names and settings are those of all."""
        return self.records[0]

    @property
    def id(self) -> str:
        """Hash of the configuration, that of its runs."""
        return self.first.id

    @cached_property
    def seeds(self) -> Mapping[int, Record]:
        """Seed -> its run."""
        return {record.seed: record for record in self.records}

    @cached_property
    def stratum(self) -> Stratum:
        """What its method may cut."""
        return stratum(self.first.settings)

    @property
    def called(self) -> str:
        """Its name beside other methods at one budget."""
        return self.rival or self.first.method

    @property
    def name(self) -> str:
        """Method and label, for tables."""
        return f"{self.first.method} ({self.label})" if self.label else self.first.method

    @property
    def guarantee(self) -> tuple[str, list[str]]:
        """Level of its guarantee, and what is missing for more."""
        found, missing = level(self.first.guarantee, num_seeds=len(self.records))
        again = [self.repeats] if self.repeats and found != "full" else []
        return found, [*missing, *again]

    @property
    def repeats(self) -> str:
        """What is to be said of seeds that change nothing; empty if all nets differ."""
        if not self.repeated:
            return ""
        return f"the same net again: seed{'s' if len(self.repeated) > 1 else ''} {', '.join(map(str, self.repeated))}"

    @property
    def missed(self) -> bool:
        """True if a run missed its target."""
        return any(record.status == "missed_target" for record in self.records)

    def estimate(self, name: str) -> Estimate | None:
        """The measured value ``name`` over the seeds that have it; None if no seed has it.

        Times of different machines are no sample of one quantity: those of the first run's machine count.
        """
        records = [r for r in self.records if "batch_" not in name or r.machine == self.first.machine]
        return estimate([r.numbers[name] for r in records if name in r.numbers])

    @property
    def masked(self) -> float:
        """Share of the parameters of the final net that are zero but still there, mean over seeds; 0 if it is small."""
        return math.fsum(record.numbers.get("masked", 0.0) for record in self.records) / len(self.records)

    def drop(self) -> Estimate | None:
        """Final minus dense accuracy of the same run, over seeds."""
        pairs = [(r.numbers.get("final.accuracy"), r.numbers.get("dense.accuracy")) for r in self.records]
        return estimate([final - dense for final, dense in pairs if final is not None and dense is not None])


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and spread of ``values``, one per seed; None without values. The best seed is never picked."""
    if not values:
        return None
    count, mean = len(values), math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else None
    return Estimate(mean, sd, tuple(values))


def group(records: Iterable[Record]) -> list[Group]:
    """The groups of all measured runs, in the order of ``records``; failed runs have no numbers and are left out."""
    by_id: dict[str, list[Record]] = {}
    for record in records:
        if record.measured:
            by_id.setdefault(record.id, []).append(record)
    groups = [_distinct(sorted(found, key=lambda r: r.seed)) for found in by_id.values()]
    by_kind: dict[tuple[str, ...], list[Group]] = {}
    for item in groups:
        r = item.first
        by_kind.setdefault((r.method, r.model, r.dataset, r.schedule), []).append(item)
    labels = {item.id: text for items in by_kind.values() for item, text in zip(items, _labels(items), strict=True)}
    return [replace(item, label=labels[item.id]) for item in groups]


def _distinct(records: Sequence[Record]) -> Group:
    """The group of runs with rising seeds: each net once."""
    nets: dict[str, Record] = {}
    for record in records:
        nets.setdefault(record.net or f"unknown {record.seed}", record)
    kept = list(nets.values())
    return Group(tuple(kept), repeated=tuple(record.seed for record in records if record not in kept))


def failures(records: Iterable[Record]) -> list[Record]:
    """Runs that ended with an error; those of a row stand beside it."""
    return [record for record in records if not record.measured]


def _labels(groups: Sequence[Group]) -> list[str]:
    """For each group the settings in which the groups differ, the method's own first, at most four of them.

    Numbers are short and absent settings the defaults, unless two labels would be one.
    """
    ways = [(varying(groups), 4), (varying(groups), 17), (varying(groups, absent_is_default=False), 17)]
    made = [[label(item.first.settings, keys, digits=digits) for item in groups] for keys, digits in ways]
    most = max(len(set(labels)) for labels in made)
    return next(labels for labels in made if len(set(labels)) == most)


def varying(groups: Sequence[Group], *, absent_is_default: bool = True) -> list[str]:
    """The settings in which ``groups`` differ, the method's own first; those that only name something are left out.

    Args:
        absent_is_default: a setting that a result does not have is that of the method's configuration file: the result
            is older than the option, and nobody has set it.
    """
    settings = [dict(item.first.settings) for item in groups]
    for item, found in zip(groups, settings, strict=True) if absent_is_default else ():
        found |= {key: value for key, value in method_defaults(item.first.method).items() if key not in found}
    keys = dict.fromkeys(key for found in settings for key in found)
    differing = [key for key in keys if len({str(found.get(key)) for found in settings}) > 1]
    return sorted(
        (key for key in differing if key.rpartition(".")[2] not in _DULL),
        key=lambda key: _ORDER.index(key.partition(".")[0]),
    )


def label(settings: Mapping[str, object], varying: Sequence[str], *, digits: int = 4) -> str:
    """The settings ``varying`` in words, at most four of them, numbers with at most so many significant digits."""
    known = [key for key in varying if key in settings and _acts(key, settings)]
    shown = [f"{_short(key)} {_rounded(settings[key], digits)}" for key in known]
    more = f", {len(shown) - _MAX_KEYS} more" if len(shown) > _MAX_KEYS else ""
    return ", ".join(shown[:_MAX_KEYS]) + more


def _acts(key: str, settings: Mapping[str, object]) -> bool:
    """Whether a setting has a say: a ratio has none beside a target, which takes its place."""
    targets = (value for name, value in settings.items() if name.startswith("method.target_"))
    return not key.startswith("method.prune_ratio") or all(value is None for value in targets)


def _rounded(value: object, digits: int) -> object:
    if not isinstance(value, float) or len(repr(value)) <= len(f"{value:.{digits}g}"):
        return value
    return f"{value:.{digits}g}"


def _short(key: str) -> str:
    """``method.prune_ratio`` → ``prune_ratio``; ``phases.finetune.lr`` → ``finetune.lr``."""
    return key.split(".", 1)[1] if key.startswith(("method.", "phases.")) else key
