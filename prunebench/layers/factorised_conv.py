"""A convolution of low rank: a narrow one followed by a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.layers.components import Factorised, plain


class FactorisedConv2d(Factorised):
    """The matrix ``[out, in kh kw]`` of a convolution as Q diag(z) P: FactorisedLinear on each window of the image.

    Component k is filter k of P (``in kh kw`` parameters) and column k of Q (``out``). The rank is at least 1.

    Args:
        rank: filters of the first convolution.
        kernel_size, stride, padding, dilation: of the first convolution, as in ``torch.nn.Conv2d``, without groups.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        rank: int,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] | str = (0, 0),
        dilation: Sequence[int] = (1, 1),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": tuple(kernel_size),
            "stride": tuple(stride),
            "padding": padding if isinstance(padding, str) else tuple(padding),
            "dilation": tuple(dilation),
        }
        self._make((rank, in_channels, *kernel_size), (out_channels, rank, 1, 1), bias)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        first, second = self._factors(scale)
        options = {name: self._config[name] for name in ("stride", "padding", "dilation")}
        return F.conv2d(F.conv2d(x, first, **options), second, self.bias)

    @torch.no_grad()
    def keep(self, indices: Tensor, scale: Tensor, *, merge: bool) -> nn.Module:
        if not len(indices):  # a convolution needs a channel: one that is zero
            indices, scale = indices.new_zeros(1), scale.new_zeros(1)
        small = FactorisedConv2d(**self.config() | {"rank": len(indices)})
        small.load_factors(self.first[indices], self.second[:, indices] * scale.view(1, -1, 1, 1), self.bias)
        if not (merge and self._is_smaller_dense(len(indices))):
            return small
        dense = nn.Conv2d(**self._config, bias=self.bias is not None)
        dense.weight.copy_(small.matrix().view_as(dense.weight))
        if small.bias is not None and dense.bias is not None:
            dense.bias.copy_(small.bias)
        return dense

    def config(self) -> dict[str, Any]:
        return plain(self._config) | {"rank": self.num_components, "bias": self.bias is not None}
