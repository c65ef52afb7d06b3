"""Nets whose channels are under ordered masks: where a mask belongs, adding them, and the whole net without them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import torch
from torch import nn

from prunebench.config.ranges import Among
from prunebench.core.method import match_layers
from prunebench.layers.ordered_mask import Blocks, OrderedMask
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.replace import replace
from prunebench.surgery.steps import Opaque, PerChannel

MaskPosition = Annotated[str, Among(("post_act", "pre_bn"))]
"""Behind the batch norm, where a masked channel stays 0 up to its readers, or in front of it, where the norm gives it a
constant value."""


class Masked(nn.Sequential):
    """A layer and the mask of what it puts out, in the place of the layer."""

    def __init__(self, layer: nn.Module, mask: OrderedMask) -> None:
        super().__init__(OrderedDict(layer=layer, mask=mask))
        self.layer: nn.Module
        self.mask: OrderedMask


def maskable(
    graph: ChannelGraph, names: Collection[str], *, position: MaskPosition, num_blocks: int, frozen_blocks: int
) -> tuple[dict[str, Blocks], dict[str, str]]:
    """Which of the layers ``names`` can be masked, with their blocks; and the reason for each of the others."""
    found: dict[str, Blocks] = {}
    refused: dict[str, str] = {}
    for name in names:
        layer = graph.layers[name]
        blocks = Blocks.of(layer.out_channels, num_blocks=num_blocks, frozen_blocks=frozen_blocks)
        if (reason := why_not_masked(graph, name, position=position)) is not None:
            refused[name] = reason
        elif not blocks.num_masked:
            refused[name] = f"its {layer.out_channels} channels make no blocks beside the frozen ones"
        else:
            found[name] = blocks
    together = graph.must_stay(found)
    return {name: blocks for name, blocks in found.items() if name not in together}, {**refused, **together}


def why_not_masked(graph: ChannelGraph, name: str, *, position: MaskPosition) -> str | None:
    """Why the channels of a layer cannot be masked, or None if they can."""
    layer = graph.layers[name]
    if layer.kind != "conv":
        return f"it is a {layer.kind} layer; only convolutions are masked"
    if layer.meets_addition:
        return "its channels meet an addition, where other layers write them too"
    if (reason := graph.why_not(name)) is not None:
        return reason
    if position == "post_act" and (norm := _norm_behind(graph, name)) is not None:
        return f"{norm} would give its masked channels a value (method.mask_position=pre_bn allows that)"
    return None


def left_plain(graph: ChannelGraph, patterns: Sequence[str] | None) -> list[str]:
    """The layers that ``patterns`` (names and globs) leave as they are; None: the first convolution."""
    if patterns is None:
        return [name for name, layer in graph.layers.items() if layer.kind != "linear"][:1]
    return match_layers(patterns, graph.layers, what="method.plain")


def holder(graph: ChannelGraph, name: str, position: MaskPosition) -> str:
    """The path of what the mask of the layer ``name`` stands behind: the layer, or the norm that reads it."""
    norm = graph.layers[name].norm
    return norm if position == "post_act" and norm is not None else name


def add_masks(net: nn.Module, masks: Mapping[str, OrderedMask]) -> nn.Module:
    """A copy of ``net`` with ``masks`` behind the modules of these paths."""
    device = next(net.parameters()).device
    return replace(net, lambda path, module: Masked(module, masks[path].to(device)) if path in masks else None)


def masks_of(net: nn.Module) -> dict[str, OrderedMask]:
    """Path of what a mask stands behind -> mask."""
    return {path: module.mask for path, module in net.named_modules() if isinstance(module, Masked)}


@torch.no_grad()
def expected_width(net: nn.Module) -> float:
    """Mean over the masks of the expected share of their channels that stay."""
    return float(torch.stack([mask.expected_share() for mask in masks_of(net).values()]).mean())


@torch.no_grad()
def without_masks(net: nn.Module, masked: Mapping[str, str], *, scale: bool) -> nn.Module:
    """A copy of ``net`` with the dense net's paths and no mask; other layers that a method has put in stay.

    Args:
        masked: path of what a mask stands behind -> the layer whose channels it masks.
        scale: multiply each channel of these layers by the chance that it stays, in weight and bias. Where a batch norm
            follows, fresh statistics undo it but for the norm's eps.
    """
    masks = masks_of(net)
    if not masks:
        return copy.deepcopy(net)
    plain = replace(net, lambda _, module: module.layer if isinstance(module, Masked) else None)
    for path, mask in masks.items() if scale else ():
        layer, stays = plain.get_submodule(masked[path]), mask.stays()
        for parameter in (layer.get_parameter("weight"), layer.bias):
            if isinstance(parameter, nn.Parameter):
                parameter.mul_(stays.view(-1, *[1] * (parameter.dim() - 1)))
    return plain


def _norm_behind(graph: ChannelGraph, name: str) -> str | None:
    """A norm layer that a layer's channels reach before the next layer, other than the one that reads it alone."""
    reached: set[int] = set()
    for step in graph.steps:
        if step.module == name and not reached:
            reached.add(step.index)
        elif reached.intersection(step.inputs) and not isinstance(step, Mix | Opaque):
            if isinstance(step, PerChannel) and step.is_norm and step.module != graph.layers[name].norm:
                return step.module
            reached.add(step.index)
    return None
