"""Channels that go together: the factors of a product, the queries, keys and values of one head, terms of a sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunebench.surgery.heads import Attend, HeadProduct, Heads
from prunebench.surgery.layer_steps import Depthwise, Mix
from prunebench.surgery.sets import Bits, full, to_bits, to_indices
from prunebench.surgery.steps import Add, Cat, Gate, Lifted, Multiply, Piece, Reorder, Step, Through, origin

Bundle = Mapping[str, Bits]
"""Layer -> its channels in the bundle."""


@dataclass(frozen=True)
class Tie:
    """Layers that lose bundles of channels: what is left of one of them alone would be computed in vain.

    Attributes:
        layers: in the order of execution.
        bundles: each channel of each layer is in one; most have channels of all layers.
        joins: indices of the operations that then have equal sets.
    """

    layers: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    joins: frozenset[int]


def ties(steps: Sequence[Step], free: Iterable[str]) -> tuple[Tie, ...]:
    """The ties of a net.

    Args:
        steps: of the net.
        free: layers that may be tied; those whose channels are added to others' have partners already.
    """
    known = set(free)
    found = _Union()
    joins: list[tuple[int, str]] = []
    for step in steps:
        parts = [_written(steps, source) for source in _joined(steps, step)]
        if len(parts) < 2 or any(part is None for part in parts):
            continue
        bundles = [_merged(pieces) for pieces in zip(*(part for part in parts if part), strict=True)]
        if {name for bundle in bundles for name in bundle} <= known:
            joins.append((step.index, next(iter(bundles[0]))))
            for bundle in bundles:
                found.join(bundle)
    widths = {step.module: step.width for step in steps if isinstance(step, Mix)}
    return tuple(
        Tie(names, tuple(bundles), frozenset(index for index, name in joins if name in names))
        for names, bundles in _grouped(found.bundles(), widths)
    )


def sum_ties(steps: Sequence[Step], free: Iterable[str], groups: Iterable[Sequence[str]] = ()) -> tuple[Tie, ...]:
    """Layers whose channels meet in additions on the way through concatenations, shuffles and pieces.

    Args:
        steps: of the net.
        free: layers that may be tied.
        groups: of layers that meet index by index; one of them is no tie, since one keep-set for all says as much, and
            nothing is tied with a part of one.
    """
    known, found, alike = set(free), _Union(), [set(group) for group in groups]
    terms: list[list[Bundle] | None] = []
    for step in steps:
        terms.append(_terms(step, terms))
        if not isinstance(step, Add) or isinstance(step, Multiply):
            continue
        parts = [terms[source] for source, whole in zip(step.inputs, step.whole, strict=True) if not whole]
        bundles = [_merged(pieces) for pieces in zip(*(part for part in parts if part), strict=True)]
        if all(parts) and {name for bundle in bundles for name in bundle} <= known:
            terms[-1] = parts[0]  # the others are joined with it
            for bundle in bundles:
                found.join(bundle)
    widths = {step.module: step.width for step in steps if isinstance(step, Mix)}
    return tuple(
        Tie(names, tuple(bundles), frozenset())
        for names, bundles in _grouped(found.bundles(), widths)
        if all(group.isdisjoint(names) or group < set(names) for group in alike)
    )


def _terms(step: Step, known: Sequence[list[Bundle] | None]) -> list[Bundle] | None:
    """For each channel of a step's output the layer's channel that it is; None where that cannot be said.

    Args:
        known: the same of the steps before.
    """
    if isinstance(step, Mix):
        return [{step.module: 1 << channel} for channel in range(step.width)]
    if isinstance(step, Cat):
        parts = [known[source] for source in step.inputs]
        joined = [bundle for part in parts if part for bundle in part]
        return joined if all(parts) and not any(step.whole) and len(joined) == step.width else None
    source = known[step.inputs[0]] if step.inputs else None
    if source is None or isinstance(step, Lifted | Gate):
        return None
    if isinstance(step, Piece):
        return source[step.offset : step.offset + step.width]
    if isinstance(step, Reorder):
        return [source[channel] for channel in step.order]
    if isinstance(step, Multiply):
        scaled = [known[place] for place, whole in zip(step.inputs, step.whole, strict=True) if not whole]
        return scaled[0] if len(scaled) == 1 else None
    follows = isinstance(step, Through) or (isinstance(step, Depthwise) and step.multiplier == 1)
    return source if follows else None


def _joined(steps: Sequence[Step], step: Step) -> list[int]:
    """The inputs of a product that should have equal sets."""
    if not isinstance(step, Multiply | Attend) or (isinstance(step, Multiply) and step.gate is not None):
        return []
    inputs = [source for source, whole in zip(step.inputs, step.whole, strict=False) if not whole]
    same = len({origin(steps, source) for source in inputs}) == 1 and not isinstance(step, Attend | HeadProduct)
    return [] if same else inputs


def _written(steps: Sequence[Step], index: int) -> list[Bundle] | None:
    """For each channel of a step's output the layers' channels that it comes from; None where others have a part."""
    step = steps[index]
    if isinstance(step, Mix):
        return [{step.module: 1 << channel} for channel in range(step.width)] if step.width > 1 else None
    if isinstance(step, Lifted | Gate):
        return None
    if isinstance(step, Through) or (isinstance(step, Depthwise) and step.multiplier == 1):
        return _written(steps, step.inputs[0])
    if isinstance(step, Piece):
        source = _written(steps, step.inputs[0])
        return None if source is None else source[step.offset : step.offset + step.width]
    if isinstance(step, Heads):
        source = _written(steps, step.inputs[0])
        return None if source is None else [_merged(source[c] for c in to_indices(own)) for own in step.members]
    if isinstance(step, Add) and not isinstance(step, HeadProduct):  # rotated positions: x * cos + turned(x) * sin
        if any(step.whole) and not isinstance(step, Multiply):
            return None
        parts = [_written(steps, source) for source, whole in zip(step.inputs, step.whole, strict=True) if not whole]
        return parts[0] if parts and all(part == parts[0] for part in parts) else None
    if isinstance(step, HeadProduct):
        parts = [_written(steps, source) for source in _joined(steps, step)]
        known = [part for part in parts if part is not None]
        return [_merged(pieces) for pieces in zip(*known, strict=True)] if known and len(known) == len(parts) else None
    return None


def _merged(bundles: Iterable[Bundle]) -> Bundle:
    together: dict[str, Bits] = {}
    for bundle in bundles:
        for name, bits in bundle.items():
            together[name] = together.get(name, 0) | bits
    return together


class _Union:
    """Channels of layers, joined to bundles."""

    def __init__(self) -> None:
        self._leader: dict[tuple[str, int], tuple[str, int]] = {}

    def _root(self, channel: tuple[str, int]) -> tuple[str, int]:
        self._leader.setdefault(channel, channel)
        while self._leader[channel] != channel:
            self._leader[channel] = self._leader[self._leader[channel]]
            channel = self._leader[channel]
        return channel

    def join(self, bundle: Bundle) -> None:
        """Let these channels be in one bundle."""
        first, *others = [(name, channel) for name, bits in bundle.items() for channel in to_indices(bits)]
        for channel in others:
            self._leader[self._root(channel)] = self._root(first)

    def bundles(self) -> list[Bundle]:
        """All of them, in the order of their first channels."""
        members: dict[tuple[str, int], dict[str, list[int]]] = {}
        for name, channel in sorted(self._leader):
            members.setdefault(self._root((name, channel)), {}).setdefault(name, []).append(channel)
        return [{name: to_bits(own) for name, own in found.items()} for found in members.values()]


def _grouped(bundles: Sequence[Bundle], widths: Mapping[str, int]) -> Iterator[tuple[tuple[str, ...], list[Bundle]]]:
    """Layers that are in common bundles, each with all of its channels."""
    partners: dict[str, set[str]] = {}
    for bundle in bundles:
        together = set(bundle).union(*(partners.get(name, ()) for name in bundle))
        if any(partners.get(name) != together for name in together):
            partners |= dict.fromkeys(together, together)
    for name in widths:
        layers = tuple(other for other in widths if other in partners.get(name, ()))
        if layers and layers[0] == name:
            own = [bundle for bundle in bundles if not partners[name].isdisjoint(bundle)]
            alone = [(other, full(widths[other]) & ~_merged(own)[other]) for other in layers]
            yield layers, own + [{other: 1 << channel} for other, bits in alone for channel in to_indices(bits)]
