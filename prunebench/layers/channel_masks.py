"""Which output channels of a net are dead for now, while the net keeps its dense shapes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prunebench.surgery.graph import ChannelGraph, Layer
from prunebench.surgery.plan import Plan


class ChannelMasks(nn.Module):
    """One mask per layer, all in one buffer, so that a checkpoint holds them.

    Attributes:
        live: bool, ``[sum of the layers' widths]``, True where a channel lives.
    """

    live: Tensor

    def __init__(self, graph: ChannelGraph) -> None:
        super().__init__()
        self.layers = {name: layer for name, layer in graph.layers.items() if not layer.is_output}
        self.register_buffer("live", torch.ones(sum(layer.out_channels for layer in self.layers.values())).bool())

    def masks(self) -> Iterator[tuple[Layer, Tensor]]:
        """Each layer with its part of ``live``, ``[out]``."""
        start = 0
        for layer in self.layers.values():
            yield layer, self.live[start : start + layer.out_channels]
            start += layer.out_channels

    def load_plan(self, plan: Plan) -> None:
        """Make the channels of ``plan`` the live ones."""
        for layer, mask in self.masks():
            mask.fill_(layer.name not in plan.keep)
            mask[list(plan.keep.get(layer.name, ()))] = True

    def plan(self) -> Plan:
        """The live channels of the layers that have dead ones."""
        keep = {
            layer.name: tuple(mask.nonzero().flatten().tolist()) for layer, mask in self.masks() if not bool(mask.all())
        }
        return Plan(keep=keep)

    @torch.no_grad()
    def zero(self, net: nn.Module, *, norms: bool) -> None:
        """Overwrite what belongs to dead channels with 0, in place: filter, bias and, with ``norms``, norm affine."""
        for parameter, mask in self._of_channels(net, norms=norms):
            parameter[~mask] = 0

    def zero_gradients(self, net: nn.Module, *, norms: bool) -> None:
        """Overwrite the gradients of the same parameters with 0, in place."""
        for parameter, mask in self._of_channels(net, norms=norms):
            if parameter.grad is not None:
                parameter.grad[~mask] = 0

    def _of_channels(self, net: nn.Module, *, norms: bool) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for layer, mask in self.masks():
            names = [layer.name, layer.norm] if norms and layer.norm is not None else [layer.name]
            for name in names:
                for parameter in net.get_submodule(name).parameters(recurse=False):
                    yield parameter, mask
