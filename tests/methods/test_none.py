"""The method ``none``: training as it is without any method."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from prunebench.core.method import Method
from prunebench.core.task import Classification
from tests.conformance.settings import Conformance

CONFORMANCE = {"none": Conformance(keeps_all=True)}


def test_it_is_plain_training() -> None:
    net, task = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), Classification(num_classes=5)
    batch = torch.randn(4, 3, 2, 2), torch.tensor([0, 4, 2, 2])
    losses = Method().losses(net, batch, task)
    assert losses.keys() == {"ce"} and torch.equal(losses["ce"], F.cross_entropy(net(batch[0]), batch[1]))
    assert torch.equal(Method().predict(net, batch, task), net(batch[0]).softmax(1)[None])
