"""Whose output a layer reads, channel by channel, and whether its own readers could do with a part of it."""

from __future__ import annotations

from collections.abc import Mapping

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.steps import Cat, PerChannel, Step, Through

Part = tuple[str | None, int]
"""A layer whose plain output (after its own norm and activations that map 0 to 0) is read, or None; channels."""


def sources(graph: ChannelGraph, layer: str) -> tuple[Part, ...]:
    """What the input of a convolution is made of, in the order of its channels.

    None stands for what is no layer's plain output: the image, a sum with a shortcut, a norm that other tensors share.
    """
    step = _step(graph, layer)
    return _merged(_parts(graph, step.inputs[0]))


def only_read_by(graph: ChannelGraph, layer: str) -> frozenset[str] | None:
    """The layers that read a layer's plain output directly, if nothing else does; else None.

    Operations in between work on each channel by itself, so that they would take any part of the channels.
    """
    found: set[str] = set()
    waiting = [_step(graph, layer).index]
    while waiting:
        index = waiting.pop()
        for step in (step for step in graph.steps if index in step.inputs):
            if isinstance(step, Mix):
                found.add(step.module)
            elif type(step) is Through or _is_own_norm(graph, step, layer):
                waiting.append(step.index)
            else:
                return None
    return frozenset(found)


def known_parts(parts: tuple[Part, ...], known: Mapping[str, object]) -> tuple[Part, ...]:
    """The same with None for layers that are not ``known``."""
    return _merged([(name if name in known else None, width) for name, width in parts])


def _parts(graph: ChannelGraph, index: int) -> list[Part]:
    step = graph.steps[index]
    if isinstance(step, Mix):
        return [(step.module, step.width)]
    if isinstance(step, Cat) and step.span == 1:
        return _pieces(graph, step)
    if type(step) is Through and step.span == 1:
        return _parts(graph, step.inputs[0])
    if isinstance(step, PerChannel):
        writer = graph.steps[step.inputs[0]]
        if isinstance(writer, Mix) and _is_own_norm(graph, step, writer.module):
            return [(writer.module, writer.width)]
    return [(None, int(graph.traced.values[graph.nodes[index]].shape[1]))]  # a complete input has no width of its own


def _pieces(graph: ChannelGraph, step: Cat) -> list[Part]:
    """Parts of a concatenation; pieces that are always zero are no inputs of the step and count as unknown."""
    parts: list[Part] = []
    for offset, source in sorted(zip(step.offsets, step.inputs, strict=True)):
        gap = offset - sum(width for _, width in parts)
        parts += [(None, gap)] if gap else []
        parts += _parts(graph, source)
    rest = step.width - sum(width for _, width in parts)
    return parts + ([(None, rest)] if rest else [])


def _is_own_norm(graph: ChannelGraph, step: Step, layer: str) -> bool:
    return isinstance(step, PerChannel) and step.is_norm and step.module == graph.layers[layer].norm


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbours without a layer become one."""
    merged: list[Part] = []
    for name, width in parts:
        if merged and name is None and merged[-1][0] is None:
            width += merged.pop()[1]
        merged.append((name, width))
    return tuple(merged)


def _step(graph: ChannelGraph, layer: str) -> Step:
    return next(step for step in graph.steps if step.module == layer)
