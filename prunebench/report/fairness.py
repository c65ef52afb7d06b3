"""How fair the comparison of two runs is: the setups of Wang et al., 2301.05219, Table 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunebench.report.record import Record

SETUPS = ("none", "S1", "S2", "S3.1", "S3.2", "S4.1", "S4.2")
"""From no common ground to all that counts in common; each includes the ones before it. The paper asks for S3.2."""
GATE = "S3.2"
RATE_TOLERANCE = 0.02
"""Two runs have the same rate if the MACs they removed differ by at most this fraction of the dense net's."""
SUM_TOLERANCE = 0.01
"""Sums of epochs or of training MACs that differ by less than this fraction are the same."""
_LR = ("optimizer", "lr", "lr_schedule", "milestones", "step_epochs", "gamma", "warmup_epochs", "warmup_factor")


def fairness(one: Record, other: Record) -> str:
    """The strictest setup that two runs of different methods share.

    S1: same data, net and rate. S2: and the same base model. S3.1, S3.2: and the same epochs, learning rates of
    fine-tuning. S4.1, S4.2: and the same epochs, learning rates of pruning. Where fine-tuning differs, equal sums
    count: SX-A the same number of epochs altogether, SX-B the same training MACs.
    """
    tests = (_same_rate, _same_base, _finetune_epochs, _finetune_rates, _pruning_epochs, _pruning_rates)
    held = 0
    for test in tests:
        if not test(one, other):
            break
        held += 1
    if 1 <= held < SETUPS.index(GATE):
        for key, label in (("epochs", "SX-A"), ("train_macs", "SX-B")):
            a, b = one.numbers.get(key), other.numbers.get(key)
            if a and b and abs(a - b) <= SUM_TOLERANCE * a:
                return label
    return SETUPS[held]


def differences(one: Record, other: Record) -> list[str]:
    """Settings outside of the method in which two runs differ; none means a controlled comparison."""
    keys = dict.fromkeys((*one.settings, *other.settings))
    return [
        key
        for key in keys
        if not key.startswith("method.") and str(one.settings.get(key)) != str(other.settings.get(key))
    ] + (["schedule"] if one.schedule != other.schedule else [])


def _same_rate(one: Record, other: Record) -> bool:
    first, second = one.numbers.get("macs_removed"), other.numbers.get("macs_removed")
    same = (one.dataset, one.model, one.test_set) == (other.dataset, other.model, other.test_set)
    return same and first is not None and second is not None and abs(first - second) <= RATE_TOLERANCE


def _same_base(one: Record, other: Record) -> bool:
    """The same checkpoint, or dense nets trained here by the same recipe from the same seed."""
    if one.checkpoint or other.checkpoint:
        return one.checkpoint == other.checkpoint
    recipes = [
        [sorted(p.items(), key=str) for p in _phases(r).values() if p.get("pretrain") and not p.get("active")]
        for r in (one, other)
    ]
    return one.seed == other.seed and bool(recipes[0]) and recipes[0] == recipes[1]


def _finetune_epochs(one: Record, other: Record) -> bool:
    return _picked(one, "finetune", ("epochs",)) == _picked(other, "finetune", ("epochs",))


def _finetune_rates(one: Record, other: Record) -> bool:
    return _picked(one, "finetune", _LR) == _picked(other, "finetune", _LR)


def _pruning_epochs(one: Record, other: Record) -> bool:
    return _picked(one, "prune", ("epochs",)) == _picked(other, "prune", ("epochs",))


def _pruning_rates(one: Record, other: Record) -> bool:
    return _picked(one, "prune", _LR) == _picked(other, "prune", _LR)


def _picked(record: Record, part: str, keys: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """``keys`` of the phases that prune (the method acts in them) or that fine-tune (all others but pretraining)."""
    phases = [p for p in _phases(record).values() if p.get("epochs") and not p.get("pretrain")]
    chosen = [p for p in phases if bool(p.get("active")) == (part == "prune")]
    return [tuple(p.get(key) for key in keys) for p in chosen]


def _phases(record: Record) -> Mapping[str, dict[str, Any]]:
    """The settings of each trained phase by its name."""
    phases: dict[str, dict[str, Any]] = {}
    for key, value in record.settings.items():
        group, _, rest = key.partition(".")
        name, _, setting = rest.rpartition(".")
        if group == "phases":
            phases.setdefault(name, {})[setting] = value
    return phases
