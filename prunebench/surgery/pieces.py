"""Layers whose channels are split, also into groups: each piece is read by itself, so that each must keep a channel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from prunebench.surgery.heads import Heads
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.sets import Bits, full, to_bits, to_indices
from prunebench.surgery.steps import Add, Cat, Expanded, Multiply, Piece, Reorder, Shift, Step, Through, origin


def pieces(steps: Sequence[Step]) -> dict[str, tuple[Bits, ...]]:
    """Layer -> the sets of its channels that splits, slices and groups hand on, the smallest first."""
    found: dict[str, dict[Bits, None]] = {}
    for step in steps:
        if isinstance(step, Piece):
            for name, bits in written_by(steps, step.inputs[0], full(step.width) << step.offset):
                found.setdefault(name, {})[bits] = None
        if isinstance(step, Grouped):
            for place in range(step.width // step.writes):
                for name, bits in written_by(steps, step.inputs[0], full(step.reads) << (place * step.reads)):
                    found.setdefault(name, {})[bits] = None
                found.setdefault(step.module, {})[full(step.writes) << (place * step.writes)] = None
    return {name: tuple(sorted(sets, key=int.bit_count)) for name, sets in found.items()}


def completed(kept: Bits, sets: Sequence[Bits], order: Sequence[int]) -> Bits:
    """``kept`` and one channel of each of the ``sets`` that has none there, the last one that ``order`` names."""
    for bits in sets:
        if not kept & bits:
            last = next((channel for channel in reversed(order) if bits >> channel & 1), None)
            kept |= 0 if last is None else 1 << last
    return kept


def surely_live(
    steps: Sequence[Step], step: Piece, sure: Sequence[Bits], everything: Sequence[Bits], equal: Collection[int] = ()
) -> bool:
    """Whether a piece has a channel under every plan that keeps one of each of the sets that :func:`pieces` names.

    Args:
        steps: of the net.
        step: the piece.
        sure: the channels of each operation that are live under every plan.
        everything: those that are live in the dense net.
        equal: products whose factors lose the same channels.
    """

    waiting, seen = [(step.inputs[0], full(step.width) << step.offset)], set[tuple[int, Bits]]()
    while waiting:
        index, bits = waiting.pop()
        bits &= everything[index]
        source = steps[index]
        if not bits or (index, bits) in seen:
            continue
        seen.add((index, bits))
        if sure[index] & bits or isinstance(source, Mix | Grouped):
            return True
        if isinstance(source, Multiply) and index in equal:
            waiting.append((source.inputs[0], bits))
        elif isinstance(source, Multiply):
            waiting += _sure_factor(steps, source, bits, sure)
        else:
            waiting += _before(steps, source, bits)
    return False


def _sure_factor(steps: Sequence[Step], step: Multiply, bits: Bits, sure: Sequence[Bits]) -> list[tuple[int, Bits]]:
    """The factor that decides alone which channels a product has, if there is one."""
    left, right = step.inputs
    if origin(steps, left) == origin(steps, right):
        return [(left, bits)]
    sets = step.sets(sure)
    return [(own, bits) for own, other in ((left, sets[1]), (right, sets[0])) if not bits & ~other][:1]


def written_by(steps: Sequence[Step], index: int, bits: Bits) -> Iterator[tuple[str, Bits]]:
    """The layers that write some channels of a step's output, and which of theirs these are."""
    waiting, seen = [(index, bits)], set[tuple[int, Bits]]()
    while waiting:
        place = waiting.pop()
        if place in seen or not place[1]:
            continue
        seen.add(place)
        step = steps[place[0]]
        if isinstance(step, Mix | Grouped):
            yield step.module, place[1]
        else:
            waiting += _before(steps, step, place[1])


def _before(steps: Sequence[Step], step: Step, bits: Bits) -> Iterator[tuple[int, Bits]]:
    """The inputs of a step, with the channels that ``bits`` of its output come from."""
    if isinstance(step, Add):
        yield from ((source, bits) for source, whole in zip(step.inputs, step.whole, strict=True) if not whole)
    elif isinstance(step, Through | Expanded):
        yield step.inputs[0], bits
    elif isinstance(step, Shift):
        yield step.inputs[0], bits >> step.offset & full(steps[step.inputs[0]].width)
    elif isinstance(step, Piece):
        yield step.inputs[0], bits << step.offset
    elif isinstance(step, Reorder):
        yield step.inputs[0], to_bits(step.order[place] for place in to_indices(bits))
    elif isinstance(step, Heads):
        yield step.inputs[0], step.channels(bits)
    elif isinstance(step, Depthwise):
        yield step.inputs[0], to_bits(channel // step.multiplier for channel in to_indices(bits))
    elif isinstance(step, Cat):
        for source, offset, whole in zip(step.inputs, step.offsets, step.whole, strict=True):
            if not whole:
                yield source, bits >> offset & full(steps[source].width)
