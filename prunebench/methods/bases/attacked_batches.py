"""Training pictures under attack, and two losses whose gradients are taken at one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunebench.core.method import Minimise
from prunebench.core.task import Batch, Task
from prunebench.measure.attacks import Space, climb, random_start


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """PGD in training, from a random point of the ball.

    Attributes:
        eps, step, steps: as of :class:`prunebench.measure.attacks.PGD`. ``space``: of the pictures.
    """

    eps: float
    step: float
    steps: int
    space: Space

    def __call__(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        """Inputs of ``batch`` after the attack on the net in evaluation mode, which is then in its own mode again."""
        inputs, labels = batch
        pixels = self.space.pixels(inputs)
        modes = [(module, module.training) for module in net.modules()]
        net.eval()

        def scores(moved: Tensor) -> Tensor:
            return task.outputs(net, self.space.inputs(moved)).float()

        start = random_start(pixels, self.eps)
        found = climb(scores, pixels, labels, eps=self.eps, step=self.step, steps=self.steps, start=start)
        for module, training in modes:
            module.training = training
        return self.space.inputs(found)


def minimise_together(
    minimise: Minimise, losses: Mapping[str, Tensor], params: Mapping[str, Sequence[nn.Parameter]]
) -> None:
    """A step of several optimisers, each down its own loss; all gradients are taken before the first one moves.

    Args:
        losses: optimiser -> scalar; they may share a graph.
        params: optimiser -> what it moves.
    """
    names = list(losses)
    gradients = {
        name: torch.autograd.grad(losses[name], params[name], retain_graph=name != names[-1], allow_unused=True)
        for name in names
    }
    for name in names:
        minimise({f"loss_of_{name}": _with_gradients(losses[name], params[name], gradients[name])}, name)


def _with_gradients(loss: Tensor, params: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor:
    """A scalar of the value of ``loss`` whose gradients are ``gradients``, exactly."""
    pairs = zip(params, gradients, strict=True)
    linear = torch.stack([(p * gradient).sum() for p, gradient in pairs if gradient is not None]).sum()
    return loss.detach() + linear - linear.detach()
