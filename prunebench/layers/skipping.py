"""A net with gated convolutions, run for one sample so that the channels it switches off are never computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.layers.gated_conv import GatedConv, gated_layers
from prunebench.layers.memory_format import to_memory_format


class SkippingNet(nn.Module):
    """The same function as the net in evaluation mode, for a batch of one sample.

    Each gated convolution runs with the rows of its weight that the sample keeps and, where its input comes from gated
    layers, with the columns that are live there. There is no such path for larger batches: their samples keep different
    channels, so batches gain nothing.

    Args:
        net: with :class:`GatedConv` layers; it is copied.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # rows and columns of a weight are copied fastest where they lie one behind the other
        net = to_memory_format(copy.deepcopy(net).eval(), torch.contiguous_format)
        made = {path: SkippingConv(layer) for path, layer in gated_layers(net).items()}
        for path, layer in made.items():
            layer.link([(None if name is None else made[name], width) for name, width in layer.reads])
            net.set_submodule(path, layer)
        self.net = net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """One sample ``[1, ...]`` to the net's output. Raises ``UserError`` for any other batch size."""
        if len(x) != 1:
            raise UserError(f"channels can be skipped for one sample at a time, got a batch of {len(x)}")
        out: Tensor = self.net(x)
        return out

    def kept(self) -> dict[str, list[int]]:
        """The channels that the last sample kept, by path of the gated layer."""
        layers = ((path, module) for path, module in self.net.named_modules() if isinstance(module, SkippingConv))
        return {path: layer.kept.tolist() for path, layer in layers}


class SkippingConv(nn.Module):
    """A gated convolution that computes what one sample keeps; ``kept`` are the channels of the last call.

    Where the readers can do with it (``narrow``), the output has the kept channels only; else it has all of them, zeros
    where a channel was skipped. A narrow output without any channel has one of zeros, which convolutions can read.
    """

    affine: Tensor

    def __init__(self, layer: GatedConv) -> None:
        super().__init__()
        self.conv, self.gate, self.reads, self.narrow = layer.conv, layer.gate, layer.reads, layer.narrow
        self.register_buffer("affine", _affine(layer.norm, self.conv))
        self.kept = torch.arange(self.conv.out_channels)
        self._sources: tuple[tuple[SkippingConv | None, int], ...] = ()

    def link(self, sources: Sequence[tuple[SkippingConv | None, int]]) -> None:
        """Tell the layer what its input is made of, as ``GatedConv.reads``."""
        self._sources = tuple(sources)  # in a tuple, so that they are no submodules

    def forward(self, x: Tensor) -> Tensor:
        """``[1, in or live, height, width]`` to ``[1, out or kept, height', width']``."""
        live = self._live(x.device)
        pooled = x.mean((2, 3))
        weight = self.conv.weight
        if live is not None and x.shape[1] < self.conv.in_channels:  # the input is narrow
            pooled = pooled.new_zeros(1, self.conv.in_channels).index_copy_(1, live, pooled)
        elif live is not None:
            x = x.index_select(1, live)
        saliency, decisions = self.gate.decide(pooled)
        kept = decisions[0].nonzero().flatten()
        self.kept = kept
        if not len(kept):
            return self._nothing(x)
        affine, bias = self.affine * saliency[:, :, None, None], self.conv.bias
        if len(kept) < self.conv.out_channels:
            weight, affine = weight.index_select(0, kept), affine.index_select(1, kept)
            bias = None if bias is None else bias.index_select(0, kept)
        if live is not None:
            weight = weight.index_select(1, live)
        out = F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding, self.conv.dilation)
        out = torch.addcmul(affine[1], out, affine[0])
        return out if self.narrow or len(kept) == self.conv.out_channels else self._spread(out, kept)

    def _live(self, device: torch.device) -> Tensor | None:
        """Channels of the input that are not switched off, ascending; None if that is all of them."""
        if all(source is None or len(source.kept) == width for source, width in self._sources):
            return None
        parts, start = [], 0
        for source, width in self._sources:
            inside = torch.arange(width, device=device) if source is None else source.kept
            parts.append(inside + start if start else inside)
            start += width
        live = parts[0] if len(parts) == 1 else torch.cat(parts)
        return live if len(live) else live.new_zeros(1)  # nothing is live: the first channel, which is 0

    def _spread(self, out: Tensor, kept: Tensor) -> Tensor:
        return out.new_zeros(1, self.conv.out_channels, *out.shape[2:]).index_copy_(1, kept, out)

    def _nothing(self, x: Tensor) -> Tensor:
        conv = self.conv
        around = conv._reversed_padding_repeated_twice  # of the last dimension first, both sides
        size = []
        for dim in (0, 1):
            padded = x.shape[2 + dim] + sum(around[2 * (1 - dim) : 2 * (1 - dim) + 2])
            size.append((padded - conv.dilation[dim] * (conv.kernel_size[dim] - 1) - 1) // conv.stride[dim] + 1)
        return x.new_zeros(1, 1 if self.narrow else conv.out_channels, *size)


@torch.no_grad()
def _affine(norm: nn.BatchNorm2d | None, conv: nn.Conv2d) -> Tensor:
    """Scale and shift of the norm in evaluation mode, ``[2, channels, 1, 1]``."""
    if norm is None:
        scale, shift = conv.weight.new_ones(conv.out_channels), conv.weight.new_zeros(conv.out_channels)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
    return torch.stack([scale, shift])[:, :, None, None]
