"""Operations and memory of a net whose units are masked, by the formulas of Madaan, Shin, Hwang 2020 (ANP_VS, memory/).

Multiplications and additions are counted apart, biases, activations and poolings too; masks, batch norms and dropout
are not. Each mask counts by itself: a position behind a channel that is gone is still a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.names import POOLS, name_of

_PER_POOLED = 4  # operations for each output of a 2x2 pooling
_POOLINGS = tuple(getattr(nn, f"{kind}Pool2d") for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax"))


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """Of one picture.

    Attributes:
        flops: operations. ``memory``: numbers of weights and of the maps that convolutions write.
    """

    flops: int
    memory: int


def unit_costs(graph: ChannelGraph, active: Mapping[str, int]) -> UnitCosts:
    """What a net costs with so many active units.

    The last layer's activation counts in nets with batch norms, as in the code for VGG-16, and not in others, as in
    that for LeNet.

    Args:
        active: layer -> units that are left of its mask: outputs of a convolution, inputs of a linear layer; layers
            without a mask are whole.
    """
    outputs = {name: _outputs(graph, name, active) for name in graph.layers}
    last_counts = any(layer.norm is not None for layer in graph.layers.values())
    flops = sum(_PER_POOLED * maps * _one(graph, writers, outputs, width) for maps, writers, width in _pooled(graph))
    memory = 0
    for name, num_inputs in _inputs(graph, active, outputs).items():
        layer = graph.layers[name]
        taps, places, wide = layer.kernel_area * num_inputs, layer.positions, outputs[name]
        further = 2 if last_counts or not layer.is_output else 1  # bias and activation
        flops += wide * places * (2 * taps - 1 + further)
        if layer.kind == "linear":
            memory += num_inputs * wide + wide + (2 * num_inputs if layer.norm is not None else 0)
        else:
            memory += taps * (places + wide) + (2 * wide if layer.norm is not None else 0)
    return UnitCosts(flops=flops, memory=memory)


def compared(graph: ChannelGraph, active: Mapping[str, int], units: int) -> dict[str, Any]:
    """A net with so many active units beside the whole one.

    Args:
        active: layer -> units that are left of its mask.
        units: of all masks in the whole net.

    Returns:
        ``speedup`` = operations of the whole net / those of this one, None if none are left; ``memory_kept`` = share
        of the whole net's memory; ``unit_sparsity`` = share of the masked units that are gone, each mask by itself;
        ``active`` = units of each mask.
    """
    whole, left = unit_costs(graph, {}), unit_costs(graph, active)
    return {
        "speedup": whole.flops / left.flops if left.flops else None,
        "memory_kept": left.memory / whole.memory,
        "unit_sparsity": 1 - sum(active.values()) / units if units else 0.0,
        "active": active,
    }


def _outputs(graph: ChannelGraph, name: str, active: Mapping[str, int]) -> int:
    """Units that a layer still writes: those of its mask, or of the mask in front of the linear layer that reads it."""
    layer = graph.layers[name]
    if layer.kind != "linear":
        return active.get(name, layer.out_channels)
    reader = graph.layers[layer.readers[0]] if len(layer.readers) == 1 else None
    same = reader is not None and reader.kind == "linear" and reader.in_channels == layer.out_channels
    return active.get(layer.readers[0], layer.out_channels) if same else layer.out_channels


def _inputs(graph: ChannelGraph, active: Mapping[str, int], outputs: Mapping[str, int]) -> dict[str, int]:
    """Inputs that each layer still reads; a depthwise or grouped convolution those of one group."""
    found = {}
    for step in graph.steps:
        if step.module not in graph.layers or step.module in found:
            continue
        layer = graph.layers[step.module]
        whole = layer.in_channels // layer.groups
        if layer.kind == "linear" and step.module in active:
            found[step.module] = active[step.module]
        elif isinstance(step, Mix):
            span = step.in_span
            found[step.module] = span * _one(graph, graph.writers[step.inputs[0]], outputs, whole // span)
        else:
            found[step.module] = whole
    return found


def _one(graph: ChannelGraph, writers: tuple[str, ...], outputs: Mapping[str, int], width: int) -> int:
    """Channels of a tensor: those of the one layer that writes it, else all."""
    return outputs[writers[0]] if len(writers) == 1 and graph.layers[writers[0]].out_channels == width else width


def _pooled(graph: ChannelGraph) -> Iterator[tuple[int, tuple[str, ...], int]]:
    """Each pooling: places of a map that it writes, who writes its channels, and how many these are."""
    for step, node in zip(graph.steps, graph.nodes, strict=True):
        module = graph.traced.net.get_submodule(step.module) if step.module else None
        if name_of(node) in POOLS or isinstance(module, _POOLINGS):
            shape = graph.traced.values[node].shape
            yield shape[2:].numel(), graph.writers[step.index], shape[1]
