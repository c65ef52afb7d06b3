"""Which tensors of a small net may come with their few channels alone, on the way from a layer to an addition."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits
from prunebench.surgery.steps import Add, Choice, Extreme, Multiply, PerChannel, Step, Subtract, Through

_BOTH = (nn.Conv2d, nn.BatchNorm2d)
"""Layers that have both forms."""


def narrow_form(graph: ChannelGraph, plan: Plan, shape: Plan) -> dict[int, Bits]:
    """The outputs of convolutions in the narrow form of :mod:`prunebench.layers.wide`, and what is made of them alone.

    Args:
        graph: of the dense net.
        plan: what is live. ``shape``: what the tensors of the wide form hold.

    Returns:
        Step -> live channels of a tensor that may come with these alone. Nobody reads it but additions and steps that
        take either form.
    """
    (live, choice), (wide, around) = graph.live(plan), graph.live(shape)
    changed = {step.module for step in graph.steps if _differs(step, live, choice, wide, around)}
    changed = {name for name in changed if type(graph.traced.net.get_submodule(name)) in _BOTH}
    origins: list[int | None] = []
    for step in graph.steps:
        origin = origins[step.inputs[0]] if step.inputs and _passes(step, changed) else None
        if isinstance(step, Mix) and step.module in changed and _pays(live[step.index], wide[step.index]):
            origin = step.index
        origins.append(origin)
    refused: set[int] = set()
    for step in graph.steps:
        read = {origin for source in step.inputs if (origin := origins[source]) is not None}
        takes_both = _takes_both(step, changed, wide) and step.module not in plan.inputs
        if read and not (_passes(step, changed) or takes_both):
            refused |= read
    kept = {index: origin for index, origin in enumerate(origins) if origin is not None and origin not in refused}
    return {index: live[index] for index in kept}


def _pays(few: Bits, wide: Bits) -> bool:
    """Whether a layer writes so much less that moving activations pays, see :mod:`prunebench.layers.wide`."""
    return 2 * few.bit_count() <= wide.bit_count()


def _differs(step: Step, live: Sequence[Bits], choice: Choice, wide: Sequence[Bits], around: Choice) -> bool:
    """Whether a layer or norm has other channels in the wide form."""
    if isinstance(step, Mix) and step.num_features(live, choice) != step.num_features(wide, around):
        return True
    return isinstance(step, Mix | PerChannel) and live[step.index] != wide[step.index]


def _passes(step: Step, changed: Collection[str]) -> bool:
    """Whether a step works on each channel by itself, however many there are."""
    return type(step) is Through or (isinstance(step, PerChannel) and step.module in changed)


def _takes_both(step: Step, changed: Collection[str], wide: Sequence[Bits]) -> bool:
    """Whether a step sees from its input which form that has: a layer, or an addition of two tensors."""
    if isinstance(step, Mix):
        return step.module in changed
    if not isinstance(step, Add) or isinstance(step, Multiply | Subtract | Extreme):
        return False
    return not any(step.whole) and all(wide[source] for source in step.inputs)
