from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.method import Method
from prunebench.core.task import Classification
from prunebench.training.lit import Lit
from prunebench.training.optimizers import build_optimizer
from tests.bare import MadeUp


@pytest.mark.parametrize("limit", [1.0, None])
def test_groups_can_stay_out_of_the_clipped_norm(limit: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, multiplier = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    phase = Phase(name="train", epochs=1, lr=0.1, clip_norm=limit)
    optimizer = build_optimizer(phase, [{"params": [weight]}, {"params": [multiplier], "clip": False}])
    weight.grad, multiplier.grad = torch.tensor([3.0, 4.0]), torch.tensor([100.0])
    lit = Lit(nn.Identity(), Method(), Classification(num_classes=2), phase, MadeUp(torch.zeros(1, 2)), seed=0)
    clock = Clock.first(num_epochs=1, steps_per_epoch=1, lr=0.1)
    monkeypatch.setattr(lit, "clock", lambda: clock)  # there is no trainer
    lit.on_before_optimizer_step(optimizer)
    assert multiplier.grad.tolist() == [100.0]
    expected = [3.0, 4.0] if limit is None else [0.6, 0.8]
    assert weight.grad.tolist() == pytest.approx(expected)
    assert math.isclose(float(weight.grad.norm()), limit or 5.0, rel_tol=1e-5)
