"""How each kind of operation passes live channels on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prunebench.surgery.sets import Bits, full, to_bits


@dataclass(frozen=True)
class Choice:
    """A plan as sets: output channels that stay, and input channels that are still read.

    ``any_groups``: for a look ahead, grouped convolutions take what they get.
    """

    keep: Mapping[str, Bits] = field(default_factory=dict)
    inputs: Mapping[str, Bits] = field(default_factory=dict)
    any_groups: bool = False


class Blocked(Exception):
    """Dead channels reach an operation that needs all of them."""

    def __init__(self, step: Step, source: int) -> None:
        super().__init__(step, source)
        self.step = step
        self.source = source  # index of the operation whose output has the dead channels


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation. Subclasses say which channels of its output are live.

    Attributes:
        index: in the order of execution.
        inputs: indices of the operations it reads.
        axis: dimension of the channels; None if the output is always complete, whatever its dimensions mean.
        width: number of channels in the dense net.
        span: consecutive features a channel has along ``axis`` (height x width after a flatten).
        module: path of the module it runs, or an empty string.
        macs: multiply-accumulates for one sample, as far as no plan changes them.
        params: names of its parameters, as far as no plan changes their sizes.
    """

    index: int
    inputs: tuple[int, ...] = ()
    axis: int | None = None
    width: int = 1
    span: int = 1
    module: str = ""
    macs: int = 0
    params: tuple[str, ...] = ()

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        """Live channels of the output, from those of all operations before.

        Raises:
            Blocked: the operation needs channels that are dead.
        """
        raise NotImplementedError


class Source(Step):
    """The input, a parameter, a constant, a size: complete; what it reads may have any channels, but some."""

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        for source in self.inputs:
            if not live[source]:
                raise Blocked(self, source)
        return 1


class ChannelCount(Source):
    """A size that is a number of channels: the dense net's number, since the arithmetic on it is the dense net's."""


class Filled(Source):
    """A tensor that is made in the shape of another one: with all the channels of the dense net, as it is complete."""


@dataclass(frozen=True, kw_only=True)
class Opaque(Step):
    """An operation whose result would change with its input's dead channels: it takes complete inputs only.

    Attributes:
        complete: the set that each input must have.
        why: what it is and where, for messages.
    """

    complete: tuple[Bits, ...]
    why: str

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        for source, complete in zip(self.inputs, self.complete, strict=True):
            if live[source] != complete:
                raise Blocked(self, source)
        return 1


class Output(Opaque):
    """What the net returns."""


class Through(Step):
    """Works on each channel by itself and maps 0 to 0: activation, pooling, dropout, a slice of the image."""

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        return live[self.inputs[0]]


@dataclass(frozen=True, kw_only=True)
class Lifted(Through):
    """Works on each channel by itself, but maps 0 to ``value``: a sigmoid, for example.

    Behind it a dead channel is that constant, so there is one only where every reader has a bias that can take it over.
    """

    value: float


class Gate(Through):
    """Works on each channel by itself and does not keep 0, and only products read it.

    Behind it a dead channel is not 0, it is only not there: what it would be multiplied with is 0.
    """


class Size(Through):
    """The shape of a tensor: whoever reads more of it than single sizes needs all channels."""


class Reshape(Through):
    """Keeps the channels and joins, adds or drops dimensions behind them: flatten, squeeze."""


@dataclass(frozen=True, kw_only=True)
class Split(Through):
    """A tuple of pieces of one tensor, which only :class:`Piece` reads.

    Attributes:
        widths: channels of each piece; empty where it is another dimension that is split.
    """

    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Piece(Step):
    """Consecutive channels of a tensor, from ``offset`` on."""

    offset: int

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        return live[self.inputs[0]] >> self.offset & full(self.width)


class Unfolded(Through):
    """A tensor whose channels lie along two dimensions for a while, on the way to a :class:`Reorder`."""


@dataclass(frozen=True, kw_only=True)
class Reorder(Step):
    """The channels in another order: a channel shuffle. ``order`` says for each place which channel comes there."""

    order: tuple[int, ...]

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        bits = live[self.inputs[0]]
        return to_bits(place for place, channel in enumerate(self.order) if bits >> channel & 1)


@dataclass(frozen=True, kw_only=True)
class PerChannel(Through):
    """The same with ``num_each`` parameters a feature; a norm's affine part must be zeroed for dead channels."""

    num_each: int
    is_norm: bool


@dataclass(frozen=True, kw_only=True)
class Shift(Step):
    """Zero channels in front (``offset``) and behind."""

    offset: int

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        return live[self.inputs[0]] << self.offset


@dataclass(frozen=True, kw_only=True)
class Cat(Step):
    """Concatenation along the channels.

    Attributes:
        offsets: first channel of each input in the output; pieces that are zero are no inputs.
        whole: the set of an input that is always complete, else 0.
    """

    offsets: tuple[int, ...]
    whole: tuple[Bits, ...]

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        bits = 0
        for source, offset, whole in zip(self.inputs, self.offsets, self.whole, strict=True):
            bits |= (whole or live[source]) << offset
        return bits


@dataclass(frozen=True, kw_only=True)
class Add(Step):
    """Sum of two tensors of one shape: the union. ``whole`` as in :class:`Cat`."""

    whole: tuple[Bits, ...]

    def sets(self, live: Sequence[Bits]) -> tuple[Bits, Bits]:
        """Live channels of the two inputs.

        Raises:
            Blocked: one that is always complete is not there at all.
        """
        for source, whole in zip(self.inputs, self.whole, strict=True):
            if whole and not live[source]:
                raise Blocked(self, source)
        left, right = (whole or live[source] for source, whole in zip(self.inputs, self.whole, strict=True))
        return left, right

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        left, right = self.sets(live)
        return left | right


@dataclass(frozen=True, kw_only=True)
class Multiply(Add):
    """Product, where one input may have size 1 along some dimensions: what is live in both.

    Attributes:
        gate: which input is a :class:`Gate`: it has to have all channels of the other one.
    """

    gate: int | None = None

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        both = self.sets(live)
        if self.gate is not None and both[1 - self.gate] & ~both[self.gate]:
            raise Blocked(self, self.inputs[self.gate])
        return both[0] & both[1]


class Subtract(Add):
    """Difference of two tensors of one shape: the union as well."""


class Extreme(Add):
    """The larger or the smaller of two tensors of one shape, entry by entry: the union as well."""


class Expanded(Step):
    """A tensor repeated to the shape of another one, whose channels do not matter; complete if those are repeated."""

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        for source in self.inputs:
            if not live[source]:
                raise Blocked(self, source)
        return 1 if self.axis is None else live[self.inputs[0]]


def origin(steps: Sequence[Step], index: int) -> int:
    """The operation whose live channels a step's output has: two tensors of one origin have the same."""
    while isinstance(step := steps[index], Through) or (isinstance(step, Expanded) and step.axis is not None):
        index = step.inputs[0]
    return index
