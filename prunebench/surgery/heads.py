"""How operations on attention heads pass live heads on: a head is there with all that it has, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunebench.surgery.sets import Bits, full
from prunebench.surgery.steps import Blocked, Choice, Expanded, Gate, Multiply, Step, Through


@dataclass(frozen=True, kw_only=True)
class Heads(Step):
    """The channels of one dimension laid out along several, of which one counts the heads.

    A head is live if one of its channels is; the others are zeros in it.

    Attributes:
        members: for each head its channels in the input.
    """

    members: tuple[Bits, ...]

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        """The heads that have a live channel."""
        source = live[self.inputs[0]]
        return sum(1 << head for head, bits in enumerate(self.members) if source & bits)

    def channels(self, heads: Bits) -> Bits:
        """The channels of some heads."""
        bits = 0
        for head, own in enumerate(self.members):
            bits |= own if heads >> head & 1 else 0
        return bits


@dataclass(frozen=True, kw_only=True)
class HeadProduct(Multiply):
    """A matrix product of each head's own matrices: queries by keys.

    Attributes:
        axes: dimension of the heads in each input.
        macs_each: of one head.
    """

    axes: tuple[int | None, ...]
    macs_each: int


@dataclass(frozen=True, kw_only=True)
class Weights(Through):
    """Works on each head by itself but does not keep 0: a softmax, a mask, a bias.

    Behind it a dead head is not 0, it is only not there. Who reads that must not need it: see :func:`is_loose`.

    Attributes:
        axes: dimension of the heads in each input, None where it has no size of its own there.
    """

    axes: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Attend(Step):
    """A weighted sum of each head's values: a head whose values are 0 is 0, whatever its weights are.

    Attributes:
        values: which input the values are.
        whole: for each input the set if it is always complete, else 0.
        axes: as in :class:`Weights`.
        why: what it is and where, for messages.
        macs_each: of one head.
    """

    values: int
    whole: tuple[Bits, ...]
    axes: tuple[int | None, ...]
    why: str
    macs_each: int

    def sets(self, live: Sequence[Bits]) -> list[Bits]:
        """Live heads of each input."""
        return [whole or live[source] for source, whole in zip(self.inputs, self.whole, strict=True)]

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        """The heads of the values. Raises Blocked where one of them has no weights."""
        sets = self.sets(live)
        for source, axis, held in zip(self.inputs, self.axes, sets, strict=True):
            if axis is not None and sets[self.values] & ~held:
                raise Blocked(self, source)
        return sets[self.values]


@dataclass(frozen=True, kw_only=True)
class Regroup(Through):
    """Another shape of the same numbers in the same order, in which the channels have a dimension again.

    Attributes:
        extent: features of a channel that were dimensions of their own.
    """

    extent: int


def is_loose(steps: Sequence[Step], index: int) -> bool:
    """Whether a dead head of a step's output may be something else than 0 in the dense net with zeros."""
    step = steps[index]
    if isinstance(step, Weights | Gate):
        return True
    if isinstance(step, HeadProduct):
        return any(is_loose(steps, source) for source in step.inputs)
    return isinstance(step, Through | Expanded) and is_loose(steps, step.inputs[0])


def is_scores(steps: Sequence[Step], index: int) -> bool:
    """Whether a step's output is a product of heads, perhaps scaled, masked or normalised."""
    step = steps[index]
    while isinstance(step, Through):
        step = steps[step.inputs[0]]
    return isinstance(step, HeadProduct | Attend)


def has_heads(steps: Sequence[Step], index: int) -> bool:
    """Whether a step's channels are heads that a reshape has made."""
    step = steps[index]
    while isinstance(step, Through | HeadProduct):
        step = steps[step.inputs[0]]
    return isinstance(step, Heads)


def heads_of(steps: Sequence[Step], index: int) -> frozenset[int]:
    """The reshapes that have made the heads of a step's output; the step itself where there are none."""
    step = steps[index]
    if isinstance(step, Through):
        return heads_of(steps, step.inputs[0])
    if isinstance(step, HeadProduct | Attend):
        return frozenset[int]().union(*(heads_of(steps, source) for source in step.inputs))
    return frozenset((index,))


def is_complete(live: Bits, step: Step) -> bool:
    """Whether all heads are there in the dense net."""
    return live == full(step.width)
