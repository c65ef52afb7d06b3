from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.methods.newcomer_decay import GrowingDecay
from tests.conformance.settings import Conformance

# without a strength the penalty is 0 at every step, which the checks of a loss term refuse
CONFORMANCE = {"newcomer_decay": Conformance(options=("method.strength=1.0e-6",), keeps_all=True)}


def test_the_penalty_grows() -> None:
    net = nn.Linear(2, 2, bias=False)
    nn.init.constant_(net.weight, -0.5)
    method, batch = GrowingDecay(strength=0.1), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    clock, seen = Clock.first(num_epochs=1, steps_per_epoch=2, lr=0.1), []
    method.start_epoch(net, clock)
    for step in range(2):
        seen.append(float(method.losses(net, batch, Classification(num_classes=2))["l1"].detach()))
        method.after_step(net, clock.at(step))
    assert seen == pytest.approx([0.2, 0.4])


def test_a_reward_is_refused() -> None:
    with pytest.raises(UserError, match=r"strength must be a number of at least 0, got -1"):
        GrowingDecay(strength=-1)
