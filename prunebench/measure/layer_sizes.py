"""Sizes of the layers that a plan leaves, and the counts that others print of them."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.plan import Plan


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """Of a convolution or linear layer in the shrunk net.

    Attributes:
        macs: multiply-accumulates of a sample. ``outputs``: output elements of a sample.
        params: with the norm layer that follows.
        normed: whether a norm layer follows directly.
        is_linear, has_bias: of the layer.
    """

    macs: int
    outputs: int
    params: int
    normed: bool
    is_linear: bool
    has_bias: bool


def layer_sizes(graph: ChannelGraph, plan: Plan) -> dict[str, LayerSize]:
    """The layers that still run, by name."""
    live, choice = graph.live(plan)
    found: dict[str, LayerSize] = {}
    for step, needed in zip(graph.steps, graph.needed(live), strict=True):
        if needed and isinstance(step, Mix):
            layer = graph.layers[step.module]
            kept, features = live[step.index].bit_count(), step.num_features(live, choice)
            normed = layer.norm is not None
            found[step.module] = LayerSize(
                macs=step.macs_each * features * kept,
                outputs=kept * layer.positions,
                params=kept * (step.params_each * features + step.has_bias + 2 * normed),
                normed=normed,
                is_linear=layer.kind == "linear",
                has_bias=layer.has_bias,
            )
    return found


def macs_with_bias(graph: ChannelGraph, plan: Plan) -> int:
    """MACs, and one addition for each output that has a bias."""
    return sum(size.macs + size.outputs * size.has_bias for size in layer_sizes(graph, plan).values())


def thop_macs(graph: ChannelGraph, plan: Plan) -> int:
    """What thop 0.0.31 calls FLOPs: MACs, one addition for each bias of a convolution, two for each norm element.

    Its average pooling, below 0.01 %, is left out; a linear layer's bias is free there.
    """
    sizes = layer_sizes(graph, plan).values()
    return sum(size.macs + size.outputs * ((size.has_bias and not size.is_linear) + 2 * size.normed) for size in sizes)
