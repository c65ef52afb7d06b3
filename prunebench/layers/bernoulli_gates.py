"""Bernoulli gates on what a layer reads, and the hyper-prior that makes their price constant.

Guenter, Sideris: Robust Learning of Parsimonious Deep Neural Networks, arXiv 2205.04650.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor, nn

ARM_MARGIN = 0.01
"""Augment-reinforce-merge draws with theta at least so far from 0 and 1, where its variance is without bound."""
UNDECIDED = (0.1, 0.9)
"""A theta between them has not made up its mind."""


class BernoulliInputs(nn.Module):
    """A layer that reads ``xi * h``: each unit h of the layer before has a gate xi ~ Bernoulli(theta).

    What stands between the units and this layer (activation, pooling, flatten) works on each unit by itself, so that
    the gate may as well stand directly behind the activation. In training each gate is drawn, and theta has the
    gradient of the loss by xi at the drawn xi (straight-through); a gate of 0 has one too, as its h is computed. There
    is no division by theta. In evaluation xi = theta, or ``1[theta >= 0.5]`` where ``hard`` is set.

    Args:
        layer: a linear layer or a convolution.
        units: of the layer before.
        span: input features of each (height x width behind a flatten), neighbours.
        start: theta of all gates.
        per_example: a draw for each example of a batch; else one for the batch.

    Attributes:
        theta: ``[units that are left]``, in [0, 1].
        alive: bool, ``[units]``: which of them are left.
        low: ``[units that are left]``: for how many steps in a row theta has been at most the tolerance.
        given: gates to use instead of a draw, ``[1 or batch, units that are left]``.
    """

    alive: Tensor
    low: Tensor

    def __init__(self, layer: nn.Module, *, units: int, span: int, start: float, per_example: bool) -> None:
        super().__init__()
        device = next(layer.parameters()).device
        self.layer, self.span, self.per_example = layer, span, per_example
        self.theta = nn.Parameter(torch.full((units,), start, device=device))
        self.register_buffer("alive", torch.ones(units, dtype=torch.bool, device=device))
        self.register_buffer("low", torch.zeros(units, dtype=torch.long, device=device))
        self.hard = False
        self.given: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]``, of a linear layer ``[batch, ..., features]``, to the layer's output."""
        gates = self.gates(len(x)).to(x.dtype).repeat_interleave(self.span, 1)
        ones = [1] * (x.dim() - 2)
        linear = isinstance(self.layer, nn.Linear)
        shape = (len(gates), *ones, gates.shape[1]) if linear else (len(gates), gates.shape[1], *ones)
        found: Tensor = self.layer(x * gates.view(shape))
        return found

    def gates(self, batch: int) -> Tensor:
        """xi of a pass, ``[1 or batch, units that are left]``."""
        if self.given is not None:
            return self.given
        if self.training:
            drawn = torch.rand(batch if self.per_example else 1, len(self.theta), device=self.theta.device)
            # in this order the difference is exactly 0
            return (drawn < self.theta).to(self.theta.dtype) + (self.theta - self.theta.detach())
        return (self.theta >= 0.5).to(self.theta.dtype)[None] if self.hard else self.theta[None]

    def shares(self) -> Tensor:
        """theta of all units, 0 of those that are gone, ``[units]``."""
        places = self.alive.nonzero().flatten()
        return torch.zeros_like(self.alive, dtype=self.theta.dtype).index_put((places,), self.theta)

    def extra_repr(self) -> str:
        return f"units={len(self.theta)} of {len(self.alive)}, span={self.span}"


def bernoulli_gates(net: nn.Module) -> dict[str, BernoulliInputs]:
    """Path -> all of them, in the order of the net's modules."""
    return {name: module for name, module in net.named_modules() if isinstance(module, BernoulliInputs)}


def undecided(thetas: Tensor) -> float:
    """Share of the theta that lie between those of :data:`UNDECIDED`."""
    return float(((thetas > UNDECIDED[0]) & (thetas < UNDECIDED[1])).float().mean())


@contextmanager
def hard_gates(net: nn.Module) -> Iterator[None]:
    """In evaluation xi = 1[theta >= 0.5] in all of a net."""
    gates = bernoulli_gates(net).values()
    before = [gate.hard for gate in gates]
    for gate in gates:
        gate.hard = True
    try:
        yield
    finally:
        for gate, hard in zip(gates, before, strict=True):
            gate.hard = hard


@contextmanager
def given_gates(gates: Sequence[BernoulliInputs], values: Sequence[Tensor]) -> Iterator[None]:
    """These xi instead of draws."""
    for gate, value in zip(gates, values, strict=True):
        gate.given = value
    try:
        yield
    finally:
        for gate in gates:
            gate.given = None


# -- the hyper-prior


def log_hyper_prior(pi: Tensor, log_gamma: float) -> Tensor:
    """ln p(pi | gamma) with p = (gamma - 1) / ln gamma / (1 + (gamma - 1) pi) on [0, 1]; gamma = 1 is uniform.

    With the best pi for each theta, KL(Bern(theta) || Bern(pi)) - ln p(pi) rises by ln gamma for each unit of theta:
    it is flat, where a fixed pi would keep theta inside (0, 1).
    """
    excess = math.expm1(log_gamma)
    constant = math.log(excess / log_gamma) if log_gamma else 0.0
    return constant - torch.log1p(excess * pi)


def best_pi(theta: Tensor, log_gamma: float) -> Tensor:
    """The pi that minimises KL(Bern(theta) || Bern(pi)) - ln p(pi | gamma)."""
    return theta / (theta + math.exp(log_gamma) * (1 - theta))


# -- gradients by theta other than straight-through


def expected_loss(gates: Sequence[BernoulliInputs], loss: Callable[[], Tensor]) -> Tensor:
    """E[loss] over all states of the gates, 2 ^ gates passes: its gradient by theta is the exact one."""
    sizes = [len(gate.theta) for gate in gates]
    thetas = torch.cat([gate.theta for gate in gates])
    total = torch.zeros((), dtype=thetas.dtype, device=thetas.device)
    for state in product((0.0, 1.0), repeat=len(thetas)):
        drawn = torch.tensor(state, dtype=thetas.dtype, device=thetas.device)
        with given_gates(gates, [part[None] for part in drawn.split(sizes)]):
            found = loss()
        total = total + torch.where(drawn > 0, thetas, 1 - thetas).prod() * found
    return total


def arm_gradients(
    gates: Sequence[BernoulliInputs], loss: Callable[[], Tensor], batch: int
) -> tuple[Tensor, list[Tensor]]:
    """Unbiased gradients by theta from two passes with antithetic gates (augment-reinforce-merge, Yin, Zhou 2019).

    The derivative of E[loss] by a theta does not depend on that theta, so that it may be estimated at another one:
    both passes draw with theta at least ``ARM_MARGIN`` from 0 and 1.

    Args:
        gates: all of the net.
        loss: of a pass: ``[batch]`` where each example has its own gates, else a scalar.
        batch: examples.

    Returns:
        The loss of the first pass, whose gates are a sample of q, with its graph; and the gradients by theta of the
        mean over the batch, each ``[units]``.
    """
    with torch.no_grad():
        probs = [gate.theta.clamp(ARM_MARGIN, 1 - ARM_MARGIN) for gate in gates]
        draws = [
            torch.rand(batch if gate.per_example else 1, len(prob), device=prob.device, dtype=prob.dtype)
            for gate, prob in zip(gates, probs, strict=True)
        ]
        pairs = list(zip(draws, probs, strict=True))
    with given_gates(gates, [(u > 1 - prob).to(prob.dtype) for u, prob in pairs]):
        first = loss()
    with torch.no_grad():
        with given_gates(gates, [(u < prob).to(prob.dtype) for u, prob in pairs]):
            gap = (first.detach() - loss()).view(-1, 1)
        found = [(gap * (u - 0.5)).mean(0) / (prob * (1 - prob)) for u, prob in pairs]
    return first, found
