"""Linear layers and convolutions whose connections learn whether they exist: w = v H(m), H the unit step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.config.ranges import Among

PROXIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "softplus": torch.sigmoid,
    "leaky_relu": lambda m: torch.where(m >= 0, 1.0, 0.01).to(m.dtype),
}
"""What stands for the derivative of the step; positive everywhere, else a mask variable may freeze off its minimum."""
Proxy = Annotated[str, Among(PROXIES)]
GRANULARITIES = ("weight", "filter", "channel")
Granularity = Annotated[str, Among(GRANULARITIES)]


class StepGate(torch.autograd.Function):
    """``values`` where ``mask >= 0``, else 0; the mask's gradient passes the step through a proxy.

    With G the gradient of the result: values get G where they live, masks get G x values x proxy'(mask) everywhere, so
    that what is off may come back (arXiv 2201.05020, abstract).
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, proxy: str) -> Tensor:
        """``values [out, in, ...]``, ``mask`` of the same shape or with ones in it."""
        ctx.save_for_backward(values, mask)
        ctx.proxy = proxy
        return torch.where(mask >= 0, values, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradients of values and mask."""
        (found,) = gradients
        values, mask = ctx.saved_tensors
        of_mask = (found * values).sum_to_size(mask.shape) * PROXIES[ctx.proxy](mask)
        return torch.where(mask >= 0, found, 0.0), of_mask, None


class Connected(nn.Module):
    """What both kinds of layers share.

    Attributes:
        weight: v, ``[out, in, ...]``; what is off keeps its value, with which it may come back.
        mask: m, of the same shape, or ``[out, 1, ...]`` (filter) or ``[1, in, ...]`` (channel).
    """

    weight: Tensor
    mask: nn.Parameter
    proxy: str

    def add_mask(self, granularity: str, initial: float, proxy: str) -> None:
        """All connections, with mask variables at ``initial``."""
        ones = [1] * (self.weight.dim() - 2)
        out, ins = self.weight.shape[:2]
        shapes = {"weight": self.weight.shape, "filter": [out, 1, *ones], "channel": [1, ins, *ones]}
        self.mask = nn.Parameter(torch.full(tuple(shapes[granularity]), float(initial), device=self.weight.device))
        self.proxy = proxy

    def effective(self) -> Tensor:
        """v H(m), ``[out, in, ...]``."""
        found: Tensor = StepGate.apply(self.weight, self.mask, self.proxy)  # type: ignore[no-untyped-call]
        return found

    def live(self) -> Tensor:
        """Which connections exist, bool of the weight's shape."""
        return (self.mask.detach() >= 0).expand_as(self.weight)


class ConnectedLinear(Connected, nn.Linear):
    """A linear layer with masks, ``[..., in]`` to ``[..., out]``."""

    def forward(self, x: Tensor) -> Tensor:
        """The linear map of the live connections."""
        return F.linear(x, self.effective(), self.bias)


class ConnectedConv2d(Connected, nn.Conv2d):
    """A convolution with masks, ``[B, in, H, W]`` to ``[B, out, H', W']``."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with the live connections."""
        output: Tensor = self._conv_forward(x, self.effective(), self.bias)
        return output


def connected(layer: nn.Linear | nn.Conv2d, *, granularity: str, initial: float, proxy: str) -> Connected:
    """A layer with masks that has the parameters of ``layer``."""
    new: ConnectedLinear | ConnectedConv2d
    if isinstance(layer, nn.Linear):
        new = ConnectedLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    else:
        new = ConnectedConv2d(**_shape(layer))
    new.weight, new.bias = layer.weight, layer.bias
    new.add_mask(granularity, initial, proxy)
    return new


@torch.no_grad()
def disconnected(layer: Connected) -> nn.Linear | nn.Conv2d:
    """The ordinary layer with the weights v H(m)."""
    new: nn.Linear | nn.Conv2d
    if isinstance(layer, ConnectedLinear):
        new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    else:
        assert isinstance(layer, ConnectedConv2d)
        new = nn.Conv2d(**_shape(layer))
    new.weight, new.bias = nn.Parameter(layer.effective()), layer.bias
    return new.train(layer.training)


def _shape(layer: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(layer, name) for name in names}, "bias": layer.bias is not None}
