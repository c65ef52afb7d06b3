"""Which output channels of a net are dead for now, while the net keeps its dense shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prunebench.surgery.graph import ChannelGraph, Layer
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero


class ChannelMasks(nn.Module):
    """The plan in force, as a buffer, and what it zeroes in place.

    ``thorough`` means all that :func:`prunebench.surgery.zero.zero` zeroes, which makes the net equal to the small one:
    filters, biases, and scale and shift of every norm layer that a dead channel passes. Otherwise only the filters and
    their biases are meant, which leaves a dead channel the constant that its norm layer emits.

    Attributes:
        live: bool, ``[sum of the layers' widths]``, True where a channel lives.
    """

    live: Tensor

    def __init__(self, graph: ChannelGraph) -> None:
        super().__init__()
        self._graph = graph
        self._widths = {name: layer.out_channels for name, layer in graph.layers.items() if not layer.is_output}
        self._thorough: dict[str, Tensor] | None = None
        self.register_buffer("live", torch.ones(sum(self._widths.values()), dtype=torch.bool))

    def load_plan(self, plan: Plan) -> None:
        """Make the channels of ``plan`` the live ones."""
        for name, mask in self._masks():
            mask.fill_(name not in plan.keep)
            mask[list(plan.keep.get(name, ()))] = True
        self._thorough = None

    def plan(self) -> Plan:
        """The live channels of the layers that have dead ones."""
        return Plan(
            keep={
                name: tuple(mask.nonzero().flatten().tolist()) for name, mask in self._masks() if not bool(mask.all())
            }
        )

    @torch.no_grad()
    def zero(self, net: nn.Module, *, thorough: bool) -> None:
        """Overwrite what belongs to dead channels with 0, in place."""
        if thorough:
            net.load_state_dict(zero(net, self._graph, self.plan()).state_dict())
            return
        for layer, parameter, mask in self._filters(net):
            layer.by_outputs(parameter)[~mask] = 0

    def zero_gradients(self, net: nn.Module, *, thorough: bool) -> None:
        """Overwrite the gradients of the same parameters with 0, in place."""
        if not thorough:
            for layer, parameter, mask in self._filters(net):
                if parameter.grad is not None:
                    layer.by_outputs(parameter.grad)[~mask] = 0
            return
        if self._thorough is None:
            self._thorough = self._survivors(net)
        for name, parameter in net.named_parameters():
            if name in self._thorough and parameter.grad is not None:
                parameter.grad *= self._thorough[name]

    def _masks(self) -> Iterator[tuple[str, Tensor]]:
        """Each layer with its part of ``live``, ``[out]``."""
        return zip(self._widths, self.live.split(list(self._widths.values())), strict=True)

    def _filters(self, net: nn.Module) -> Iterator[tuple[Layer, nn.Parameter, Tensor]]:
        for name, mask in self._masks():
            for parameter in net.get_submodule(name).parameters(recurse=False):
                yield self._graph.layers[name], parameter, mask

    @torch.no_grad()
    def _survivors(self, net: nn.Module) -> dict[str, Tensor]:
        """For each parameter that has dead entries a mask of its shape: what is left of a net full of ones."""
        ones = copy.deepcopy(net)
        for parameter in ones.parameters():
            parameter.fill_(1.0)
        left = zero(ones, self._graph, self.plan())
        return {name: parameter != 0 for name, parameter in left.named_parameters() if not bool(parameter.all())}
