"""A linear layer of low rank: two smaller ones in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.layers.components import Factorised


class FactorisedLinear(Factorised):
    """y = Q diag(z) P x + b, ``[..., in_features]`` to ``[..., out_features]``.

    Component k is row k of P and column k of Q: ``in_features + out_features`` parameters. A layer of rank 0 is its
    bias alone.

    Args:
        rank: columns of Q and rows of P.
    """

    def __init__(self, *, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._make((rank, in_features), (out_features, rank), bias)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        first, second = self._factors(scale)
        return F.linear(F.linear(x, first), second, self.bias)

    @torch.no_grad()
    def keep(self, indices: Tensor, scale: Tensor, *, merge: bool) -> nn.Module:
        has_bias = self.bias is not None
        small = FactorisedLinear(**self.config() | {"rank": len(indices)})
        small.load_factors(self.first[indices], self.second[:, indices] * scale, self.bias)
        if not (merge and self._is_smaller_dense(len(indices))):
            return small
        dense = nn.Linear(self.in_features, self.out_features, bias=has_bias)
        dense.weight.copy_(small.matrix())
        if small.bias is not None:
            dense.bias.copy_(small.bias)
        return dense

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.num_components,
            "bias": self.bias is not None,
        }
