"""All kernels of the scattering addition agree with plain indexing, forwards and backwards."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prunebench.layers.scatter import Gather, ScatterAdd, Spread

WIDE = (0, 1, 2, 3, 4, 5, 6)
FORMATS = (torch.contiguous_format, torch.channels_last)


def reference(first: Tensor, second: Tensor, places: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    total = torch.zeros(len(first), 7, *first.shape[2:], dtype=first.dtype)
    total[:, places[0]] = total[:, places[0]] + first
    total[:, places[1]] = total[:, places[1]] + second
    return total


@pytest.mark.parametrize("size", [1, 5, 40], ids=["pixel", "small", "large"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("first", [None, (0, 2, 6)], ids=["wide", "narrow"])
def test_every_kernel(size: int, dtype: torch.dtype, first: tuple[int, ...] | None) -> None:
    second = (1, 2, 5)
    module = ScatterAdd(width=7, first=first, second=second)
    for one, other in itertools.product(FORMATS, FORMATS):
        x = torch.randn(4, len(first or WIDE), size, size).to(dtype, memory_format=one).requires_grad_()
        y = torch.randn(4, 3, size, size).to(dtype, memory_format=other).requires_grad_()
        weight = torch.randn(4, 7, size, size).to(dtype)
        expected = reference(x, y, (first or WIDE, second))
        result = module(x, y)
        assert torch.equal(result, expected), "moved and added once, so there is nothing to round"
        expected_grads = torch.autograd.grad((expected * weight).sum(), (x, y))
        for grad, right in zip(torch.autograd.grad((result * weight).sum(), (x, y)), expected_grads, strict=True):
            assert torch.equal(grad, right)
        with torch.inference_mode():
            assert torch.equal(module(x, y), expected)
        if size > 1 and one is other:
            assert result.is_contiguous(memory_format=one), "the format of the net is kept"


def test_other_dimensions_and_types() -> None:
    module = ScatterAdd(width=4, first=None, second=(1, 3), axis=2)
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 2, dtype=torch.float64)
    expected = x.double()
    expected[:, :, [1, 3]] += y
    assert torch.equal(module(x, y), expected)
    flat = ScatterAdd(width=4, first=(0, 1), second=(1, 3))
    assert torch.equal(flat(torch.ones(1, 2), torch.ones(1, 2)), torch.tensor([[1.0, 2.0, 0.0, 1.0]]))


def test_inputs_are_not_written() -> None:
    x, y = torch.ones(2, 3, 4, 4), torch.ones(2, 2, 4, 4)
    ScatterAdd(width=3, first=None, second=(0, 2))(x, y)
    assert x.unique().tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_counts_no_multiplications(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(4, 7, 40, 40).to(dtype, memory_format=memory_format)
    with FlopCounterMode(display=False) as counter:
        ScatterAdd(width=7, first=None, second=(0, 2, 3))(x, x[:, :3])
    assert counter.get_total_flops() == 0


def test_compiled_form() -> None:
    """What export and compilers see is another formula for the same sum."""
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    for first in (None, (0, 2, 4)):
        module = ScatterAdd(width=3 if first is None else 5, first=first, second=(1, 2))
        program = torch.export.export(module, (x, y))
        assert torch.equal(program.module()(x, y), module(x, y))
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert targets == {"aten.pad.default", "aten.index_select.default", "aten.add.Tensor"}


def test_gather_and_spread() -> None:
    x = torch.randn(2, 5, 3, 3)
    narrow = Gather(places=(0, 3))(x)
    assert torch.equal(narrow, x[:, [0, 3]])
    wide = Spread(places=(0, 3), width=5)(narrow)
    assert torch.equal(wide[:, [0, 3]], narrow)
    assert torch.count_nonzero(wide[:, [1, 2, 4]]) == 0
    assert not ScatterAdd(width=5, first=(0,), second=(1,)).state_dict()
