"""Every method under a teacher: it is heard after the pretraining, and whatever the method promises stays true."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prunebench
from prunebench.config import named
from prunebench.config.phase import build_phases
from prunebench.core.distilled import trains_dense
from prunebench.measure import cost
from tests.conformance.settings import conformance
from tests.conformance.test_every_method import KINDS, SUPPORTED, command
from tests.kit import configure, run

QUICK = ("dcff", "fpgm")
"""One that trains from scratch and one that fine-tunes; the rest is slow."""


@functools.cache
def dense_first(schedule: str, *overrides: str) -> bool:
    config, _ = configure(Path("unused"), f"schedule={schedule}", *overrides)
    return trains_dense(build_phases(config["schedule"]["phases"]), pretrained=False)


def taught() -> Iterator[Any]:
    """The first schedule of each method that trains a dense net before the method acts."""
    seen: set[str] = set()
    for method, schedule in SUPPORTED:
        own = [f"method={method}"] if "acts" in KINDS[method] else []  # composing takes a second: no more than needed
        if method not in seen and dense_first(schedule, *own):
            seen.add(method)
            yield pytest.param(method, schedule, marks=() if method in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("method", "schedule"), list(taught()))
def test_it_runs_with_a_teacher(method: str, schedule: str, tmp_path: Path) -> None:
    result, folder = run(tmp_path, *command(method, schedule), "teacher=dense")
    heard = [phase["name"] for phase in result["phases"] if phase.get("teacher_macs")]
    built = named.build("method", configure(tmp_path, *command(method, schedule))[0]["method"])
    last = result["phases"][-1]
    assert bool(heard) == (not last["settings"]["pretrain"])
    if heard:
        assert last["name"] in heard and last["train_macs"] > last["teacher_macs"]
    assert not any(phase["settings"]["pretrain"] for phase in result["phases"] if phase["name"] in heard)
    final = result["cost"]["final"]
    net = prunebench.load(folder, trust=True)
    assert cost.count(net, torch.zeros(1, 1, 8, 8)).macs == final.get("macs_masked", final["macs"])
    assert result["status"] == "complete" or conformance(method).may_miss or not built.sizes_given
