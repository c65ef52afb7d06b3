"""Methods at equal budgets: all pairs tested, Holm's adjustment over the family, ranks with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from prunebench.errors import UserError
from prunebench.measure.statistics import holm
from prunebench.report.configurations import Group
from prunebench.report.pairs import Pair, compare, read_correct, read_setup
from prunebench.report.predictions import Correct
from prunebench.report.record import Record
from prunebench.report.strata import Stratum, distinction
from prunebench.rows.fairness import SAME_RATE, Setup

MAX_PAIRS = 1000
"""So many pairs are tested in one report: families with the most runs first, in each from the least removed on."""


@dataclass(frozen=True)
class Rank:
    """Place of a group in its budget: by mean accuracy, and the places that the tests leave open."""

    group: Group
    place: int
    best: int
    worst: int


@dataclass(frozen=True)
class Budget:
    """One configuration per method and stratum, all with about the same MACs removed (fractions).

    Attributes:
        low, high: the least and the most removed.
        pairs: tested, both of one stratum. ``apart``: number of pairs of different strata, which are not compared.
    """

    low: float
    high: float
    pairs: tuple[Pair, ...]
    ranks: tuple[Rank, ...]
    apart: int


@dataclass(frozen=True)
class Family:
    """All tests on one data set, model, schedule and base checkpoint: Holm's adjustment holds over all of them."""

    dataset: str
    model: str
    schedule: str
    checkpoint: str | None
    budgets: tuple[Budget, ...]
    flips: tuple[str, ...]
    refused: tuple[str, ...]


def families(groups: Sequence[Group], load: Callable[[Record], Correct] | None = None) -> tuple[list[Family], int]:
    """Compare the methods of each family at each budget, those that may cut the same.

    Args:
        load: gives the per-example correctness of a run; default: from its ``predictions.npz``.

    Returns:
        The families with at least one budget that has two methods, and the number of pairs left untested because
        there are too many.
    """
    load = load or read_correct
    by_family: dict[tuple[str, ...], list[Group]] = {}
    for item in groups:
        r = item.first
        if "macs_removed" in r.numbers and "final.accuracy" in r.numbers:
            by_family.setdefault((r.dataset, r.model, r.schedule, r.test_set, r.checkpoint or ""), []).append(item)
    found, left, skipped = [], MAX_PAIRS, 0
    for members in sorted(by_family.values(), key=lambda m: -sum(len(g.records) for g in m)):
        budgets = []
        for chosen in map(_one_per_method, _budgets(_called(members))):
            count = len(_comparable(chosen))
            if count > left:
                skipped += count
            elif len(chosen) > 1:
                left -= count
                budgets.append(chosen)
        if budgets:
            found.append(_family(budgets, load))
    return sorted(found, key=lambda f: (f.dataset, f.model, f.schedule, f.checkpoint or "")), skipped


def _budgets(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in order of the MACs removed, cut where the distance to a budget's first one exceeds the tolerance."""
    ordered = sorted(groups, key=lambda g: g.first.numbers["macs_removed"])
    budgets: list[list[Group]] = []
    for item in ordered:
        start = budgets[-1][0].first.numbers["macs_removed"] if budgets else None
        if start is None or item.first.numbers["macs_removed"] - start > SAME_RATE:
            budgets.append([])
        budgets[-1].append(item)
    return budgets


def _one_per_method(groups: Sequence[Group]) -> list[Group]:
    """Of the configurations of a method in a stratum that with most seeds, then the newest: never the best one."""
    chosen: dict[tuple[str, Stratum], Group] = {}
    for item in sorted(groups, key=lambda g: (len(g.records), g.first.started, g.id)):
        chosen[item.first.method, item.stratum] = item
    return sorted(chosen.values(), key=lambda g: g.called)


def _called(groups: Sequence[Group]) -> list[Group]:
    """The groups with names that tell the strata of one method apart."""
    strata: dict[str, set[Stratum]] = {}
    for item in groups:
        strata.setdefault(item.first.method, set()).add(item.stratum)
    more = [distinction(item.stratum, strata[item.first.method]) for item in groups]
    names = [f"{item.first.method} ({words})" if words else "" for item, words in zip(groups, more, strict=True)]
    return [replace(item, rival=name) for item, name in zip(groups, names, strict=True)]


def _comparable(chosen: Sequence[Group]) -> list[tuple[Group, Group]]:
    return [(one, other) for one, other in combinations(chosen, 2) if one.stratum == other.stratum]


def _family(budgets: Sequence[Sequence[Group]], load: Callable[[Record], Correct]) -> Family:
    # a run meets every other run of its budget
    cache: dict[str, Correct] = {}
    setups: dict[str, Setup | None] = {}

    def correct(record: Record) -> Correct:
        if record.key not in cache:
            cache[record.key] = load(record)
        return cache[record.key]

    def setup(record: Record) -> Setup | None:
        if record.key not in setups:
            setups[record.key] = read_setup(record)
        return setups[record.key]

    refused: list[str] = []
    raw: list[list[Pair]] = []
    for chosen in budgets:
        raw.append([])
        for first, second in _comparable(chosen):
            try:
                raw[-1].append(compare(first, second, correct, setup))
            except UserError as error:
                refused.append(f"{first.name} and {second.name}: {error}")
        cache.clear()
        setups.clear()
    adjusted = iter(holm([pair.p for pairs in raw for pair in pairs]))
    tested = [[replace(pair, p_holm=next(adjusted)) for pair in pairs] for pairs in raw]
    made = [_budget(chosen, pairs) for chosen, pairs in zip(budgets, tested, strict=True)]
    r = budgets[0][0].first
    return Family(r.dataset, r.model, r.schedule, r.checkpoint, tuple(made), tuple(_flips(made)), tuple(refused))


def _mean(item: Group) -> float:
    found = item.estimate("final.accuracy")
    assert found is not None
    return found.mean


def _budget(chosen: Sequence[Group], pairs: Sequence[Pair]) -> Budget:
    """The ranks of one budget: a decided pair fixes who is ahead, all other places stay open."""
    better: Mapping[str, list[str]] = {g.id: [] for g in chosen}
    worse: Mapping[str, list[str]] = {g.id: [] for g in chosen}
    for pair in pairs:
        if pair.decided:
            better[pair.behind.id].append(pair.ahead.id)
            worse[pair.ahead.id].append(pair.behind.id)
    ordered = sorted(chosen, key=lambda g: -_mean(g))
    ranks = [
        Rank(g, place, 1 + len(better[g.id]), len(ordered) - len(worse[g.id])) for place, g in enumerate(ordered, 1)
    ]
    rates = [g.first.numbers["macs_removed"] for g in chosen]
    apart = len(chosen) * (len(chosen) - 1) // 2 - len(_comparable(chosen))
    return Budget(min(rates), max(rates), tuple(pairs), tuple(ranks), apart)


def _flips(budgets: Sequence[Budget]) -> list[str]:
    """Pairs of methods of one stratum whose order by mean accuracy is not the same at all budgets."""
    orders: dict[tuple[str, str], dict[bool, list[str]]] = {}
    for budget in budgets:
        at = f"{100 * budget.low:.0f} %"
        places = {rank.group.id: rank.place for rank in budget.ranks}
        for one, other in _comparable(sorted((rank.group for rank in budget.ranks), key=lambda g: g.called)):
            is_ahead = places[one.id] < places[other.id]
            orders.setdefault((one.called, other.called), {}).setdefault(is_ahead, []).append(at)
    return [
        f"{one} is ahead of {other} at {', '.join(sides[True])} of the MACs removed, "
        f"behind it at {', '.join(sides[False])}"
        for (one, other), sides in orders.items()
        if len(sides) == 2
    ]
