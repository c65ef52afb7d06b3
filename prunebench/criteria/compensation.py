"""What removed channels have contributed on average moves into the layers that read them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from prunebench.criteria.activation_moments import ACTIVATIONS, mean
from prunebench.criteria.norms import mean_shift
from prunebench.surgery.graph import ChannelGraph, Layer
from prunebench.surgery.plan import Plan


@torch.no_grad()
def compensated(net: nn.Module, graph: ChannelGraph, plan: Plan, before: Plan) -> nn.Module:
    """A copy of ``net`` whose readers expect the channels of ``plan`` to be gone.

    For each channel i that ``plan`` removes and ``before`` does not, and each output j of a layer that reads it, the
    running mean of the reader's batch norm loses K[j, i] * E[channel i] (or its bias gains it where no norm follows):
    E[pre-activation] is unchanged, up to zero padding and to max-pooling in between. The expected value comes from
    the batch norm behind the removed channel in closed form, so nothing is changed for layers without one. Nor is
    anything for a transposed convolution that reads it: what it adds differs from place to place.

    Args:
        net: with the dense net's shapes and layer names.
        graph: of the dense net.
        plan: what will be cut.
        before: what has been cut (and compensated) already.
    """
    net = copy.deepcopy(net)
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for name, kept in plan.keep.items():
        removed = sorted(set(before.keep.get(name, range(graph.layers[name].out_channels))) - set(kept))
        for reader in graph.layers[name].readers:
            if graph.layers[reader].kind == "transposed":
                continue
            source = _last_writer(graph, name, reader)
            scale = parameters.get(f"{source.norm}.weight")
            if scale is None or f"{source.norm}.running_mean" not in buffers or source.activation not in ACTIVATIONS:
                continue
            beta = parameters[f"{source.norm}.bias"]
            expected = mean(beta, scale, activation=source.activation, slope=source.slope)
            shift = mean_shift(parameters[f"{reader}.weight"], expected, removed)
            running = buffers.get(f"{graph.layers[reader].norm}.running_mean")
            bias = parameters.get(f"{reader}.bias")
            if running is not None:
                running.sub_(shift.to(running))
            elif bias is not None:
                bias.add_(shift.to(bias))
    return net


def _last_writer(graph: ChannelGraph, name: str, reader: str) -> Layer:
    """The layer whose output ``reader`` gets: ``name``, or a depthwise convolution in between."""
    between = [layer for layer in graph.layers.values() if layer.kind == "depthwise" and reader in layer.readers]
    return between[-1] if between else graph.layers[name]
