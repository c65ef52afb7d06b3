"""What a step minimises whose units have Bernoulli gates, by the way in which the gates get their gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from prunebench.config.ranges import Among
from prunebench.core.context import Run
from prunebench.core.task import Batch, Classification, Task, total
from prunebench.layers.bernoulli_gates import BernoulliInputs, arm_gradients, expected_loss, hard_gates
from prunebench.measure.metrics import NLL

GRADIENTS = ("ste", "arm", "exact")
GateGradient = Annotated[str, Among(GRADIENTS)]
"""ste = straight-through, arm = two passes, exact = all states of the gates."""


def terms(
    net: nn.Module,
    batch: Batch,
    task: Task,
    gates: Sequence[BernoulliInputs],
    price: Tensor,
    *,
    how: GateGradient,
    each: bool,
) -> dict[str, Tensor]:
    """The losses of a batch and the price of the gates.

    Args:
        gates: of the net.
        price: of its units at their theta.
        how: the gates' gradient.
        each: arm: from the loss of each example, which only classification has, instead of the batch's.
    """
    if how == "ste":
        return {**task.losses(net, batch), "price": price}
    if how == "exact":
        return {"expected_nll": expected_loss(gates, lambda: total(task.losses(net, batch))), "price": price}
    first, found = arm_gradients(
        gates,
        lambda: cast(Classification, task).each_loss(net, batch) if each else total(task.losses(net, batch)),
        len(batch[0]),
    )
    # of value 0, with these gradients
    drawn = torch.stack([(gate.theta * g).sum() for gate, g in zip(gates, found, strict=True)]).sum()
    return {NLL.key: first.mean(), "price": price + drawn - drawn.detach()}


def num_passes(gates: Sequence[BernoulliInputs], how: GateGradient) -> int:
    """Of a step, in forward passes: 3 for one with its backward pass."""
    if how == "exact":
        return int(3 * 2 ** sum(len(gate.theta) for gate in gates))
    return 4 if how == "arm" else 3


def hard_accuracy(net: nn.Module, run: Run) -> float | None:
    """On the validation split, with rounded gates; None without a split of labelled samples."""
    if not run.data.num_val or not isinstance(run.task, Classification):
        return None
    training, hits = net.training, 0
    with torch.no_grad(), hard_gates(net.eval()):
        for batch in run.data.validation():
            hits += int((run.task.probabilities(net, batch).argmax(1) == batch[1]).sum())
    net.train(training)
    return hits / run.data.num_val
