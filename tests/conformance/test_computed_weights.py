"""Every method leaves layers alone whose weights are computed from other parameters, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prunebench
from prunebench.errors import UserError
from tests.conformance.settings import conformance
from tests.conformance.test_every_method import KINDS, METHODS, declared_by, lengths
from tests.kit import SHORT, run
from tests.small_nets import COMPUTED

NET = ("model=custom", "model._target_=tests.small_nets.parametrised_resnet", "model.name=parametrised_resnet")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_they_stay_as_they_are(method: str, tmp_path: Path) -> None:
    if any(option.startswith("model") for option in conformance(method).options):
        pytest.skip("it takes nets of one kind only")
    schedule = sorted(KINDS[method].get("schedules") or declared_by(KINDS[method]["_target_"], method))[0]
    words = (f"method={method}", f"schedule={schedule}", *lengths(schedule), *conformance(method).options)
    try:
        result, folder = run(tmp_path, *SHORT, *NET, *words)
    except UserError as refused:
        pytest.skip(str(refused))
    net = prunebench.load(folder, trust=True)
    modules = dict(net.named_modules())
    left = [name for name in COMPUTED if name in modules]  # a branch that goes as a whole takes them along
    assert all(torch.nn.utils.parametrize.is_parametrized(modules[name], "weight") for name in left)
    listed = {row["layer"] for row in result["not_pruned"]}
    if listed:  # where channels go; factors have no such list
        assert listed >= set(left)
