"""A criterion with gradients: how much the loss would change to first order without a filter."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.criteria.scorers import Criterion, Evidence, Subject


def taylor(weight: Tensor, grad: Tensor) -> Tensor:
    """|sum of weight x gradient| of each filter, ``[out, in, ...] -> [out]``."""
    return (weight.detach() * grad).flatten(1).sum(1).abs()


@validated
class Taylor(Criterion):
    """First-order change of the mean loss of some training samples.

    Args:
        number: of samples.
    """

    def __init__(self, *, number: PositiveInt) -> None:
        self.number = number
        self.scores: dict[str, Tensor] = {}

    def prepare(self, net: nn.Module, evidence: Evidence) -> Criterion:
        net = copy.deepcopy(net).eval().to(evidence.device)
        for batch in evidence.samples("taylor", self.number):
            (evidence.loss(net, batch) * len(batch[1]) / self.number).backward()
        ready = Taylor(number=self.number)
        ready.scores = {
            name.removesuffix(".weight"): taylor(p, p.grad).cpu()
            for name, p in net.named_parameters()
            if p.ndim > 1 and p.grad is not None
        }
        return ready

    def __call__(self, subject: Subject) -> Tensor:
        return self.scores[subject.layer.name]
