"""The sizes in which a small net computes, layer by layer: what a clock sees of a plan, where counts see less."""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.surgery.align import align
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.narrow_form import narrow_form
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits
from prunebench.surgery.steps import Choice

Sizes = dict[str, tuple[int, int]]
"""Layer -> features read and channels written; (0, 0) for one that no longer runs."""


def computed_sizes(graph: ChannelGraph, plan: Plan, *, narrow: bool) -> Sizes:
    """Sizes of the layers of ``shrink(net, graph, plan)``.

    Args:
        narrow: in the narrow form of :mod:`prunebench.layers.wide`; else layers that meet in an addition write all of
            its channels.

    Raises:
        UserError: the plan cannot be carried out.
    """
    shape = align(graph, plan)
    live, choice = graph.live(shape)
    few = narrow_form(graph, plan, shape) if narrow and shape != plan else {}
    return _sizes(graph, [few.get(index, bits) for index, bits in enumerate(live)], graph.needed(live), choice)


def counted_sizes(graph: ChannelGraph, plan: Plan) -> Sizes:
    """Sizes of the layers by which :meth:`ChannelGraph.macs` and :meth:`ChannelGraph.params` count.

    Raises:
        UserError: the plan cannot be carried out.
    """
    live, choice = graph.live(plan)
    return _sizes(graph, live, graph.needed(live), choice)


def _sizes(graph: ChannelGraph, live: Sequence[Bits], needed: Sequence[bool], choice: Choice) -> Sizes:
    found: Sizes = {}
    for step, runs in zip(graph.steps, needed, strict=True):
        writes = live[step.index].bit_count() if runs else 0
        if isinstance(step, Mix):
            found[step.module] = (step.num_features(live, choice), writes) if writes else (0, 0)
        elif isinstance(step, Grouped):
            found[step.module] = (step.read(live, choice).bit_count(), writes) if writes else (0, 0)
        elif isinstance(step, Depthwise):
            found[step.module] = (writes, writes)
    return found
