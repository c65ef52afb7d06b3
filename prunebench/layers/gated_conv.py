"""A convolution that each sample uses with its own channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from prunebench.layers.saliency import SaliencyPruning


class GatedConv(nn.Module):
    """``saliency * decision * norm(conv(x))``, with saliency and decision from ``x``, per sample and channel.

    The mask comes after the norm, so that a channel that is switched off is 0 and not the norm's shift; the norm's
    statistics in training are those of the whole convolution. All channels are computed here; a forward pass that
    skips them is :class:`prunebench.layers.skipping.SkippingNet`.

    Args:
        conv: keyword arguments of ``nn.Conv2d``.
        norm: those of ``nn.BatchNorm2d``; None if no norm follows.
        gate: those of :class:`SaliencyPruning` beside its sizes.
        reads: what the input is made of, in the order of its channels: (path of a gated layer or None, channels).
        narrow: everything that reads the output can do with the kept channels alone.
    """

    def __init__(
        self,
        *,
        conv: Mapping[str, Any],
        norm: Mapping[str, Any] | None,
        gate: Mapping[str, Any],
        reads: Sequence[tuple[str | None, int]],
        narrow: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(**conv)
        self.norm = None if norm is None else nn.BatchNorm2d(**norm)
        self.gate = SaliencyPruning(in_channels=self.conv.in_channels, out_channels=self.conv.out_channels, **gate)
        self.reads = tuple((path, int(width)) for path, width in reads)
        self.narrow = narrow
        self._config = {
            "conv": dict(conv),
            "norm": None if norm is None else dict(norm),
            "gate": dict(gate),
            "reads": [list(part) for part in self.reads],
            "narrow": narrow,
        }

    @classmethod
    def around(
        cls,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        *,
        gate: Mapping[str, Any],
        reads: Sequence[tuple[str | None, int]],
        narrow: bool,
    ) -> GatedConv:
        """A gated layer that takes over the two modules; the gate's weights are drawn anew."""
        settings = {
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "stride": list(conv.stride),
            "padding": conv.padding if isinstance(conv.padding, str) else list(conv.padding),
            "dilation": list(conv.dilation),
            "bias": conv.bias is not None,
        }
        norms = None
        if norm is not None:
            norms = {"num_features": norm.num_features, "eps": norm.eps, "momentum": norm.momentum}
        layer = cls(conv=settings, norm=norms, gate=gate, reads=reads, narrow=narrow)
        layer.conv, layer.norm = conv, norm
        layer.gate.to(conv.weight.device)
        return layer

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain data."""
        return self._config

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width]`` to ``[batch, out, height', width']``, the channels not kept being 0."""
        saliency, decisions = self.gate(x)
        out: Tensor = self.conv(x)
        if self.norm is not None:
            out = self.norm(out)
        masked: Tensor = out * (saliency * decisions).to(out.dtype)[:, :, None, None]
        return masked


class Moved(nn.Module):
    """Stands where a norm layer was that is now inside the gated convolution before it."""

    def config(self) -> dict[str, Any]:
        """No arguments."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x


def why_not(conv: nn.Module, norm: nn.Module | None) -> str | None:
    """Why the two cannot become a gated layer, or None if they can."""
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}; only plain nn.Conv2d layers get a gate"
    if conv.padding_mode != "zeros":
        return f"its padding is {conv.padding_mode!r}; only zeros can be skipped"
    plain = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats
    if norm is not None and not plain:
        return f"a {type(norm).__name__} follows it; a gate needs a plain nn.BatchNorm2d or no norm"
    return None


def gated_layers(net: nn.Module) -> dict[str, GatedConv]:
    """The gated layers of a net by path."""
    return {path: module for path, module in net.named_modules() if isinstance(module, GatedConv)}
