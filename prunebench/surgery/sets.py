"""Sets of channels.

A set is a whole number whose bit ``c`` says that channel ``c`` is in it: unions, intersections, shifts and counts for a
whole net then take less than a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable

Bits = int


def full(width: int) -> Bits:
    """All of ``width`` channels."""
    return (1 << width) - 1


def to_bits(indices: Iterable[int]) -> Bits:
    """Channel indices -> set."""
    bits = 0
    for index in indices:
        bits |= 1 << index
    return bits


def to_indices(bits: Bits, span: int = 1) -> list[int]:
    """Set -> ascending channel indices; each channel stands for ``span`` consecutive features."""
    kept = [channel for channel, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]
    return kept if span == 1 else [channel * span + offset for channel in kept for offset in range(span)]


def widen(bits: Bits, span: int) -> Bits:
    """The set of the ``span`` consecutive features of each channel."""
    return bits if span == 1 else to_bits(to_indices(bits, span))


def positions(part: Bits, whole: Bits, span: int = 1) -> list[int]:
    """Where the channels of ``part`` stand in a tensor that holds the channels of ``whole``, ascending."""
    assert part | whole == whole, "a part has no channel that the whole lacks"
    ranks = {channel: rank for rank, channel in enumerate(to_indices(whole))}
    return [ranks[channel] * span + offset for channel in to_indices(part) for offset in range(span)]
