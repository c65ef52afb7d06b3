"""One name for each of torch's operations, whether it is written as a function, an operator or a method."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

# elementwise functions; whether they map 0 to 0 is tried out, since some have options
ACTIVATIONS = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh", "hardswish", "hardtanh"}
    | {"softsign", "tanhshrink", "softshrink", "hardshrink", "clamp", "abs", "neg", "sign", "square", "expm1", "erf"}
)
LIFTS = frozenset({"sigmoid", "softplus", "logsigmoid", "hardsigmoid", "exp"})
"""Elementwise functions that map 0 to another number."""
COPIES = frozenset(
    {"clone", "contiguous", "detach", "to", "float", "half", "bfloat16", "double", "zeros_like"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d"}
)
POOLS = frozenset(
    f"{kind}_pool{dims}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)
)
REDUCTIONS = frozenset({"mean", "sum", "amax", "amin"})
RESHAPES = frozenset({"flatten", "view", "reshape", "squeeze", "unsqueeze"})
TURNS = frozenset({"permute", "transpose", "swapaxes"})
SIZES = frozenset({"size", "dim", "getattr"})
FACTORIES = frozenset(
    {"zeros", "ones", "full", "empty", "arange", "eye", "linspace", "new_zeros", "new_ones", "new_full"}
)
JOINS = frozenset({"add", "sub", "subtract", "mul", "div", "truediv", "cat", "concat", "pad"})
ARITHMETIC = frozenset({"add", "sub", "subtract", "mul", "div", "truediv", "pow"})
SPLITS = frozenset({"split", "chunk", "tensor_split"})
ATTENTION = frozenset({"scaled_dot_product_attention", "softmax", "masked_fill", "where", "matmul", "bmm", "einsum"})
SHIFTS = frozenset({"roll", "flip"})
OTHERS = frozenset(
    {"stack", "interpolate", "getitem", "pow", "maximum", "minimum", "max", "min", "expand_as"}
    | {"unbind", "unflatten"}
)


def name_of(node: fx.Node) -> str:
    """``relu`` for ``F.relu``, ``torch.relu_`` and the method; an empty string for functions that are not torch's."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    return _NAMES.get(node.target, "") if node.op == "call_function" else ""


def _spellings() -> dict[Any, str]:
    found: dict[Any, str] = {getattr: "getattr"}
    names = (
        ACTIVATIONS
        | LIFTS
        | COPIES
        | POOLS
        | REDUCTIONS
        | RESHAPES
        | TURNS
        | SHIFTS
        | SIZES
        | FACTORIES
        | JOINS
        | SPLITS
        | ATTENTION
        | OTHERS
    )
    for space in (torch, F, operator):
        for name in sorted(names):
            for spelling in (name, f"{name}_", f"i{name}"):
                function = getattr(space, spelling, None)
                if callable(function):
                    found[function] = name
    return found


_NAMES = _spellings()
