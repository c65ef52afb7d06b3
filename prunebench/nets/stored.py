"""Tensors as a file holds them: in any type and layout, with values or without."""

from __future__ import annotations

import torch
from torch import Tensor

_PACKED = (torch.float4_e2m1fn_x2,)  # two numbers in one element, which torch converts into no other type
ROUNDING = 1e-5
"""Relative to a tensor's largest value: what a computation in another order may change."""


def is_float(tensor: Tensor) -> bool:
    """Whether the values are floating-point numbers, one an element."""
    return tensor.is_floating_point() and tensor.dtype not in _PACKED


def kind(tensor: Tensor) -> str:
    """``[16, 3, 3, 3]``, with the type where that is not a floating-point one, and what it lacks."""
    name = "" if is_float(tensor) else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{name}{' without values' if tensor.is_meta else ''}"


def dense(tensor: Tensor) -> Tensor:
    """With zeros where a sparse tensor holds nothing.

    A file of a few bytes may hold a sparse tensor of any size: compare its shape first.
    """
    return tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()


def numbers(tensor: Tensor) -> Tensor:
    """Dense, and in a type that is fit for arithmetic: narrow floating-point types become float32."""
    values = dense(tensor)
    return values.float() if is_float(values) and values.dtype != torch.float64 else values


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for their floating-point types and the rounding of a computation."""
    if one.shape != other.shape or is_float(one) != is_float(other):
        return False
    if one.is_meta or other.is_meta:
        return one.is_meta and other.is_meta
    if not is_float(one):
        return one.dtype == other.dtype and torch.equal(dense(one), dense(other))
    first, second = numbers(one).double(), numbers(other).double()
    size = first[first.isfinite()].abs().max().item() if first.isfinite().any() else 0.0
    limit = max(ROUNDING, *(4 * torch.finfo(tensor.dtype).eps for tensor in (one, other)))
    return torch.allclose(first, second, rtol=0, atol=limit * size, equal_nan=True)
