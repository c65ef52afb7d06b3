"""Linear layers by input feature: one whose features can be gated, and one that reads only some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.layers.components import _FEW, Components
from prunebench.layers.scatter import Gather


class InputLinear(Components):
    """y = W diag(z) x + b: component k is column k of W, ``out_features`` parameters (flop/linear.py:323-470)."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, *, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.num_components, self.params_per_component = in_features, out_features
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(in_features)."""
        bound = 1 / math.sqrt(max(1, self.num_components))
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        if scale is None:
            return F.linear(x, self.weight, self.bias)
        live = scale.nonzero().flatten()
        if self.training and 0 < len(live) <= _FEW * self.num_components:
            return F.linear(x[..., live], self.weight[:, live] * scale[live], self.bias)
        return F.linear(x, self.weight * scale, self.bias)

    @torch.no_grad()
    def take_norms(self) -> Tensor:
        norms: Tensor = self.weight.norm(dim=0)
        self.weight.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
        return norms

    @torch.no_grad()
    def keep(self, indices: Tensor, scale: Tensor, *, merge: bool) -> nn.Module:
        small = SelectedLinear(places=indices.tolist(), **self.config())
        small.weight.copy_(self.weight[:, indices] * scale)
        if small.bias is not None and self.bias is not None:
            small.bias.copy_(self.bias)
        return small

    def config(self) -> dict[str, Any]:
        out_features, in_features = self.weight.shape
        return {"in_features": in_features, "out_features": out_features, "bias": self.bias is not None}


class SelectedLinear(nn.Module):
    """A linear layer that reads the features ``places`` of its input ``[..., in_features]``.

    Args:
        places: ascending; without any the layer is its bias alone.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, *, in_features: int, out_features: int, places: Sequence[int], bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.gather = Gather(places=places, axis=-1)
        self.weight = nn.Parameter(torch.empty(out_features, len(places)))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(features read)."""
        bound = 1 / math.sqrt(max(1, self.weight.shape[1]))
        for parameter in self.parameters(recurse=False):
            parameter.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Gather, multiply, add the bias."""
        return F.linear(self.gather(x), self.weight, self.bias)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that build a layer of these shapes."""
        return {
            "in_features": self.in_features,
            "out_features": self.weight.shape[0],
            "places": self.gather.places.tolist(),
            "bias": self.bias is not None,
        }
