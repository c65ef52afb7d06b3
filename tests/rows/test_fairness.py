"""The fairness of a comparison of two runs."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

import pytest

from prunebench.config.phase import Phase
from prunebench.rows.fairness import Fairness, judge, setup_of

PRETRAIN = Phase(name="pretrain", epochs=4, lr=0.1, pretrain=True)
TUNE = Phase(name="finetune", epochs=2, lr=0.01, prune=True, active=True)


def run_of(*phases: Phase, seed: int = 0, removed: float = 0.5, **changes: Any) -> dict[str, Any]:
    result = {
        "schema": 1,
        "run": {"seed": seed},
        "dataset": {"settings": {"name": "cifar10", "batch_size": 128, "augment": {"flip": True}}},
        "model": {"settings": {"name": "resnet20", "width": 16, "pretrained": None}},
        "cost": {"macs_removed": removed},
        # a result is JSON, which has no infinity
        "phases": [
            {"train_macs": 10.0 * phase.epochs, "settings": {**asdict(phase), "max_stretch": None}} for phase in phases
        ],
    }
    return copy.deepcopy(result) | changes


BASE = run_of(PRETRAIN, TUNE)
SEARCH = Phase(name="search", epochs=3, lr=0.1, active=True)


def how_fair(one: dict[str, Any], other: dict[str, Any]) -> Fairness:
    return judge(setup_of(one), setup_of(other))


@pytest.mark.parametrize(
    ("other", "label"),
    [
        (run_of(PRETRAIN, TUNE), "S4.2"),
        (run_of(PRETRAIN, TUNE, removed=0.7), None),  # another rate
        (run_of(PRETRAIN, TUNE, dataset={"settings": {"name": "cifar10", "augment": {"flip": False}}}), None),
        (run_of(PRETRAIN, TUNE, seed=1), "SX-B"),  # another base model, the same epochs and compute
        (run_of(replace(PRETRAIN, lr=0.2), replace(TUNE, epochs=1)), "S1"),
        (run_of(replace(PRETRAIN, lr=0.2), TUNE), "SX-B"),
        (run_of(PRETRAIN, replace(TUNE, epochs=3)), "S2"),
        (run_of(PRETRAIN, replace(TUNE, lr=0.02)), "S3.1"),
        (run_of(PRETRAIN, replace(TUNE, batch_size=64)), "S3.1"),
        # a step schedule that happens to be constant is the same schedule
        (run_of(PRETRAIN, replace(TUNE, lr_schedule="step", step_epochs=9)), "S4.2"),
        (run_of(PRETRAIN, SEARCH, TUNE), "S3.2"),
    ],
)
def test_the_strictest_label_that_holds(other: dict[str, Any], label: str | None) -> None:
    assert how_fair(BASE, other).label == label
    assert how_fair(other, BASE).label == label


def test_pruning_schedules_count_too() -> None:
    one, other = run_of(PRETRAIN, SEARCH, TUNE), run_of(PRETRAIN, replace(SEARCH, lr=0.2), TUNE)
    found = how_fair(one, other)
    assert (found.label, found.fair) == ("S4.1", True)
    assert found.differences == ("pruning training",)


def test_the_same_checkpoint_is_the_same_base() -> None:
    def with_weights(sha: str) -> dict[str, Any]:
        return run_of(TUNE, model={"settings": {"name": "r"}, "pretrained": {"source": "net.th", "sha256": sha}})

    assert how_fair(with_weights("a"), with_weights("a")).label == "S4.2"
    found = how_fair(with_weights("a"), with_weights("b"))
    assert "S2" not in found.holds
    assert "base model" in found.differences
