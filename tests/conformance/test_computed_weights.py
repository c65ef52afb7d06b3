"""Every method leaves layers alone whose weights are computed from other parameters, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prunebench
from prunebench.errors import UserError
from tests.conformance.settings import conformance
from tests.conformance.test_every_method import KINDS, METHODS, SHORT, declared_by, lengths
from tests.kit import run
from tests.small_nets import COMPUTED

NET = ("model=custom", "model._target_=tests.small_nets.parametrised_resnet", "model.name=parametrised_resnet")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_they_stay_as_they_are(method: str, tmp_path: Path) -> None:
    schedule = sorted(KINDS[method].get("schedules") or declared_by(KINDS[method]["_target_"], method))[0]
    words = (f"method={method}", f"schedule={schedule}", *lengths(schedule), *conformance(method).options)
    try:
        result, folder = run(tmp_path, *SHORT, *NET, *words)
    except UserError as refused:
        pytest.skip(str(refused))
    net = prunebench.load(folder, trust=True)
    for name in COMPUTED:
        layer = net.get_submodule(name)
        assert torch.nn.utils.parametrize.is_parametrized(layer, "weight"), type(layer)
    listed = {row["layer"] for row in result["not_pruned"]}
    if listed or result["cost"]["macs_removed"] > 0:
        assert listed >= set(COMPUTED)
