"""Every method leaves layers alone whose weights are computed from other parameters, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prunebench
from prunebench.nets.package import read_plan
from prunebench.surgery.plan import Plan
from tests.conformance.settings import conformance
from tests.conformance.test_every_method import KINDS, METHODS, declared_by, lengths
from tests.kit import SHORT, run
from tests.small_nets import COMPUTED

NET = ("model=custom", "model._target_=tests.small_nets.parametrised_resnet", "model.name=parametrised_resnet")
OF_ANY_NET = [name for name in METHODS if not any(word.startswith("model") for word in conformance(name).options)]
"""The methods that take nets of any kind."""


@pytest.mark.slow
@pytest.mark.parametrize("method", OF_ANY_NET)
def test_they_stay_as_they_are(method: str, tmp_path: Path) -> None:
    schedule = sorted(KINDS[method].get("schedules") or declared_by(KINDS[method]["_target_"], method))[0]
    words = (f"method={method}", f"schedule={schedule}", *lengths(schedule), *conformance(method).options)
    result, folder = run(tmp_path, *SHORT, *NET, *words)
    modules = dict(prunebench.load(folder, trust=True).named_modules())
    left = [name for name in COMPUTED if name in modules]  # a branch that goes as a whole takes them along
    assert all(torch.nn.utils.parametrize.is_parametrized(modules[name], "weight") for name in left)
    if read_plan(folder) != Plan():  # where channels go; single weights and factors have no such list
        assert {row["layer"] for row in result["not_pruned"]} >= set(left)
