"""Layers that can be cut one by one, but not all together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.sets import Bits, full
from prunebench.surgery.steps import Blocked, Choice, Mix, Multiply, Source, Step, Through


class _Product(Blocked):
    """Two factors that may have no common channel."""


def must_stay(graph: ChannelGraph, layers: Collection[str]) -> dict[str, str]:
    """Which of some layers must stay whole if all of them may lose any channels, with the reason.

    Each of them could be cut alone. Together they write a stream that an operation needs complete, or their product
    might have no channel left.

    Each tensor has the channels that are live under every plan: none of what a layer writes that may be cut. Where an
    operation needs more, all the layers that write there stay whole, and the net is followed again.
    """
    cut = {name for name in layers if graph.layers[name].out_channels > 1}
    whole: dict[str, str] = {}
    while True:
        sure: list[Bits] = []
        try:
            for step in graph.steps:
                sure.append(_sure(graph, step, sure, cut))
        except _Product as blocked:
            left, right = (_writers(graph, source, cut) for source in blocked.step.inputs)
            if left & right:
                found, reason = left | right, "its channels are multiplied with others of their own sum"
            else:
                found, reason = right, f"its channels are multiplied with those of {', '.join(sorted(left))}"
        except Blocked as blocked:
            found = _writers(graph, blocked.source, cut)
            reason = f"its channels reach {graph.operation(blocked.step)}, which needs all of them"
        else:
            return whole
        assert found, "an operation is blocked, but nothing that it reads may be cut"
        whole |= dict.fromkeys(found, reason)
        cut -= found


def _sure(graph: ChannelGraph, step: Step, sure: Sequence[Bits], cut: Collection[str]) -> Bits:
    """The channels of a step's output that are live whatever the ``cut`` layers lose."""
    if isinstance(step, Mix):
        step.source(sure)  # raises where its input must be complete
        return 0 if step.module in cut else full(step.width)
    if isinstance(step, Source):
        return 1
    if isinstance(step, Multiply) and not any(step.sets(sure)):
        left, right = (_origin(graph, source) for source in step.inputs)
        if left != right:
            raise _Product(step, right)
    return step.live(sure, Choice())


def _origin(graph: ChannelGraph, index: int) -> int:
    """The operation whose live channels a step's output has: two factors of one origin have the same."""
    while isinstance(graph.steps[index], Through):
        index = graph.steps[index].inputs[0]
    return index


def _writers(graph: ChannelGraph, index: int, cut: Collection[str]) -> set[str]:
    """The ``cut`` layers whose channels are in a step's output."""
    found: set[str] = set()
    waiting, seen = [index], set[int]()
    while waiting:
        step = graph.steps[waiting.pop()]
        if step.index in seen:
            continue
        seen.add(step.index)
        if not isinstance(step, Mix):
            waiting += step.inputs
        elif step.module in cut:
            found.add(step.module)
    return found
