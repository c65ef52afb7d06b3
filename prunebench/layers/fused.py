"""A convolution whose few filters are averages of a larger bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class FusedConv2d(nn.Conv2d):
    """``conv(x, proxies @ bank)``: the layer has m outputs, its parameters hold c >= m filters.

    Gradients flow into all filters that have a weight in some proxy; the proxies themselves are constants. The fusion
    is one matrix product a step, whatever the batch, and runs in float32 under autocast too. While operations are
    counted for one sample it is left out: the count is that of the layer with m filters.

    Args:
        conv: of m outputs; gives sizes and options. The bank is drawn anew, as PyTorch draws the weights of a
            convolution of c outputs.
        num_filters: c.

    Attributes:
        weight, bias: the bank, ``[c, in, k, k]`` and ``[c]`` (or None).
        proxies: rows that sum to one, ``[m, c]``; the first m filters alone at the start.
        slots: the filter that each output stands for, ``[m]``; -1 = not chosen yet.
        scores: by which the filters were chosen last, ``[c]``, float64.
    """

    proxies: Tensor
    slots: Tensor
    scores: Tensor

    def __init__(self, conv: nn.Conv2d, *, num_filters: int) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        num_outputs, device = conv.out_channels, conv.weight.device
        assert conv.groups == 1 and num_filters >= num_outputs
        self.weight = nn.Parameter(conv.weight.new_empty(num_filters, *conv.weight.shape[1:]))
        if conv.bias is not None:
            self.bias = nn.Parameter(conv.bias.new_empty(num_filters))
        self.reset_parameters()
        self.register_buffer("proxies", torch.eye(num_filters, device=device)[:num_outputs])
        self.register_buffer("slots", torch.full((num_outputs,), -1, device=device))
        self.register_buffer("scores", torch.zeros(num_filters, dtype=torch.float64, device=device))

    @property
    def num_filters(self) -> int:
        """Filters in the bank."""
        return len(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, m, height', width']``."""
        if is_in_torch_dispatch_mode() and not torch.compiler.is_compiling():
            few = slice(self.out_channels)
            weight, bias = self.weight[few], None if self.bias is None else self.bias[few]
        else:
            weight, bias = self.fused()
        output: Tensor = self._conv_forward(input, weight, bias)
        return output

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """Filters ``[m, in, k, k]`` and biases ``[m]`` that the layer computes with."""
        with torch.autocast(self.weight.device.type, enabled=False):
            weight = (self.proxies @ self.weight.flatten(1)).view(-1, *self.weight.shape[1:])
            return weight, None if self.bias is None else self.proxies @ self.bias

    @torch.no_grad()
    def plain(self) -> nn.Conv2d:
        """The compact layer: a convolution with the fused filters as its own."""
        weight, bias = self.fused()
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            bias is not None,
            self.padding_mode,
            device="meta",
        )
        conv.weight = nn.Parameter(weight)
        conv.bias = None if bias is None else nn.Parameter(bias)
        return conv

    def extra_repr(self) -> str:
        """Sizes, and the number of filters in the bank."""
        sizes: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{sizes}, num_filters={self.num_filters}"


def fused_layers(net: nn.Module) -> dict[str, FusedConv2d]:
    """The fused layers of a net by path."""
    return {path: module for path, module in net.named_modules() if isinstance(module, FusedConv2d)}
