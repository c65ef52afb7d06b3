"""Layers that can be cut one by one, but not all together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from prunebench.surgery.heads import Attend, heads_of
from prunebench.surgery.layer_steps import Grouped, Mix
from prunebench.surgery.pieces import surely_live
from prunebench.surgery.sets import Bits, full
from prunebench.surgery.steps import Blocked, Choice, Expanded, Multiply, Piece, Source, Step, origin
from prunebench.surgery.ties import Tie


class _Product(Blocked):
    """Two factors that may have no common channel."""


class _Empty(Blocked):
    """A piece of a tensor that may have no channel."""


def must_stay(
    steps: Sequence[Step], layers: Collection[str], name: Callable[[Step], str], tied: Collection[Tie] = ()
) -> dict[str, str]:
    """Which of some layers must stay whole if all of them may lose any channels, with the reason.

    Each tensor has the channels that are live under every plan: none of what a layer writes that may be cut. Where an
    operation needs more, all the layers that write there stay whole, and the net is followed again.

    Args:
        steps: of the net.
        layers: that may be cut.
        name: what a step is, for the reasons.
        tied: what loses whole bundles only, so that its products have equal sets.
    """
    cut = {step.module for step in steps if step.module in layers and step.width > 1}
    whole: dict[str, str] = {}
    everything: list[Bits] = []
    for step in steps:
        everything.append(step.live(everything, Choice()))
    while True:
        equal = {join for tie in tied if cut.issuperset(tie.layers) for join in tie.joins}
        try:
            _follow(steps, cut, everything, equal)
        except _Product as blocked:
            left, right = (_writers(steps, source, cut) for source in blocked.step.inputs)
            if left and right and not left & right:
                found, reason = right, f"its channels are multiplied with those of {', '.join(sorted(left))}"
            else:
                found, reason = left | right, "its channels are multiplied with others, and none might be left"
        except _Empty as blocked:
            found = _writers(steps, blocked.source, cut)
            reason = f"{name(blocked.step)} takes a part of its channels, of which none might be left"
        except Blocked as blocked:
            found = _writers(steps, blocked.source, cut)
            reason = f"its channels reach {name(blocked.step)}, which needs all of them"
        else:
            return whole
        found = found.union(*(tie.layers for tie in tied if found.intersection(tie.layers)))
        assert found, "an operation is blocked, but nothing that it reads may be cut"
        whole |= dict.fromkeys(found, reason)
        cut -= found


def _follow(steps: Sequence[Step], cut: Collection[str], everything: Sequence[Bits], equal: Collection[int]) -> None:
    """Raise Blocked where something that the ``cut`` layers may lose is needed; ``equal`` products lose the same."""
    sure: list[Bits] = []
    for step in steps:
        _check_heads(steps, step, sure, everything, equal)
        met = step.index in equal
        if isinstance(step, Multiply) and not met and not _surely_meet(steps, step, sure, everything):
            writers = [_writers(steps, source, cut) for source in step.inputs]
            if any(writers):
                raise _Product(step, step.inputs[0])
        may_be_empty = isinstance(step, Piece) and not surely_live(steps, step, sure, everything, equal)
        if may_be_empty and _writers(steps, step.inputs[0], cut):
            raise _Empty(step, step.inputs[0])
        sure.append(_sure(step, sure, cut))


def _sure(step: Step, sure: Sequence[Bits], cut: Collection[str]) -> Bits:
    """The channels of a step's output that are live whatever the ``cut`` layers lose."""
    if isinstance(step, Mix):
        step.source(sure)  # raises where its input must be complete
        return 0 if step.module in cut else full(step.width)
    if isinstance(step, Grouped):  # each group has something to read, whoever cuts it
        return 0 if step.module in cut else full(step.width)
    if isinstance(step, Source):
        return 1
    if isinstance(step, Expanded):
        return 1 if step.axis is None else sure[step.inputs[0]]
    return step.live(sure, Choice())


def _check_heads(
    steps: Sequence[Step], step: Step, sure: Sequence[Bits], everything: Sequence[Bits], equal: Collection[int]
) -> None:
    """Raise Blocked where values may have heads whose weights are gone."""
    if not isinstance(step, Attend) or step.index in equal:
        return
    values = step.inputs[step.values]
    for source, axis, whole in zip(step.inputs, step.axes, step.whole, strict=True):
        lost = everything[values] & ~(whole or sure[source])
        if axis is not None and lost and heads_of(steps, source) != heads_of(steps, values):
            raise Blocked(step, source)


def _surely_meet(steps: Sequence[Step], step: Multiply, sure: Sequence[Bits], everything: Sequence[Bits]) -> bool:
    """Whether two factors have a common channel under every plan, given that neither is empty."""
    (left, right), (all_left, all_right) = step.sets(sure), step.sets(everything)
    covered = not all_right & ~left or not all_left & ~right
    return bool(left & right) or covered or len({origin(steps, source) for source in step.inputs}) == 1


def _writers(steps: Sequence[Step], index: int, cut: Collection[str]) -> set[str]:
    """The ``cut`` layers whose channels are in a step's output."""
    found: set[str] = set()
    waiting, seen = [index], set[int]()
    while waiting:
        step = steps[waiting.pop()]
        if step.index in seen:
            continue
        seen.add(step.index)
        if not isinstance(step, Mix | Grouped):
            waiting += step.inputs
        elif step.module in cut:
            found.add(step.module)
    return found
