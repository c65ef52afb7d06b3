"""When two nets compute the same: relative to the size of their outputs and to the precision of their numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SURE = 1e-5
"""Share of the largest output below which a float32 difference is rounding, whatever the net."""
_EXACT = 1e-8
"""The same in float64, where the rounding of deep nets stays below it and a wrong channel does not."""
_NUM_EXACT = 16  # inputs of the comparison in float64


@dataclass(frozen=True)
class Difference:
    """Of two outputs.

    Attributes:
        largest: absolute difference; infinite if only one of two entries is a finite number.
        scale: largest absolute value of the expected output.
    """

    largest: float
    scale: float

    def within(self, share: float) -> bool:
        """Whether the difference is at most that share of the outputs' size."""
        return self.largest <= share * self.scale


def difference(expected: Tensor, found: Tensor) -> Difference:
    """How far ``found`` is from ``expected``; equal entries that are no finite numbers do not differ.

    Args:
        expected, found: of one shape.
    """
    if expected.shape != found.shape:
        return Difference(float("inf"), 1.0)
    if not expected.numel():
        return Difference(0.0, 0.0)
    expected, found = expected.detach().double(), found.detach().double()
    finite = expected.isfinite()
    alike = finite == found.isfinite()
    both = finite & alike
    gaps = torch.where(both, (expected - found).abs(), torch.where(alike, 0.0, torch.inf))
    return Difference(float(gaps.max()), float(torch.where(both, expected.abs(), 0.0).max()))


def same(one: nn.Module, other: nn.Module, inputs: Tensor, run: Callable[[nn.Module, Tensor], Tensor]) -> Difference:
    """Compare two nets that should compute the same, in float32, and in float64 where that does not settle it.

    Args:
        one, other: in evaluation mode.
        inputs: ``[batch, ...]``.
        run: net and inputs -> outputs.

    Returns:
        The difference in float32 if rounding explains it.

    Raises:
        AssertionError: they compute something else.
    """
    with torch.no_grad():
        found = difference(run(one, inputs), run(other, inputs))
        if not found.within(SURE):
            exact = inputs[:_NUM_EXACT]
            exact = exact.double() if exact.is_floating_point() else exact
            one, other = (copy.deepcopy(net).double() for net in (one, other))
            decided = difference(run(one, exact), run(other, exact))
            text = f"two nets that should be equal differ by {found.largest:.3g} in outputs up to {found.scale:.3g}"
            assert decided.within(_EXACT), text
    return found


def random_inputs(example: Tensor, *, number: int) -> Tensor:
    """``[number, ...]`` inputs of the shape of ``example [1, ...]``: normal ones, or its own symbols."""
    if not example.is_floating_point():
        return example[:1].expand(number, *example.shape[1:])
    draws = torch.randn(number, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    return draws.to(example)
