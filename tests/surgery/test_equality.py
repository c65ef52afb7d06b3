from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.surgery.equality import Difference, difference, same


def run(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


def test_difference() -> None:
    found = difference(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0]))
    assert found == Difference(1.0, 4.0)
    assert found.within(0.25)
    assert not found.within(0.24)
    infinite = torch.tensor([float("inf"), float("nan"), 1.0])
    assert difference(infinite, infinite) == Difference(0.0, 1.0), "what is no number on both sides does not differ"
    assert not difference(infinite, torch.ones(3)).within(1e9)
    assert not difference(torch.ones(2), torch.ones(3)).within(1e9)
    assert difference(torch.zeros(0), torch.zeros(0)).within(0.0)
    assert not difference(torch.zeros(2), torch.full((2,), 1e-30)).within(1.0), "relative to an output of zeros"


class Sum(nn.Module):
    """A sum that cancels: its rounding is large beside the result."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.parts = nn.Parameter(torch.tensor([1e6, 0.1234567, -1e6, 0.7654321])[order])

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for part in self.parts:
            total = total + part * x
        return total


def test_float64_decides_where_rounding_is_large() -> None:
    one, other, x = Sum([0, 1, 2, 3]), Sum([0, 2, 1, 3]), torch.ones(1, 1)
    found = same(one, other, x, run)
    assert not found.within(1e-5), "float32 alone would refuse it"
    with torch.no_grad():
        other.parts[3] += 1e-4
    with pytest.raises(AssertionError, match="should be equal differ by"):
        same(one, other, x, run)
