"""How layers with weights pass live channels on: convolutions of all kinds and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunebench.surgery.sets import Bits, full, widen
from prunebench.surgery.steps import Blocked, Choice, Step


class Uneven(Blocked):
    """The groups of a convolution would be of different sizes: ``sizes`` are the channels that each reads or writes."""

    def __init__(self, step: Step, source: int, what: str, sizes: Sequence[int]) -> None:
        super().__init__(step, source)
        self.what, self.sizes = what, sizes


@dataclass(frozen=True, kw_only=True)
class Depthwise(Step):
    """A convolution with one group a channel and ``multiplier`` outputs each; it follows the channels it reads."""

    multiplier: int
    macs_each: int  # of one output channel
    params_each: int  # the same

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        return widen(live[self.inputs[0]], self.multiplier)


@dataclass(frozen=True, kw_only=True)
class Grouped(Step):
    """A convolution in groups of several channels; the plan says which outputs stay.

    All groups that are left read equally many channels and write equally many: one weight holds them all. A group that
    has nothing to read, or nothing to write, is gone.

    Attributes:
        reads: channels of the input that each group reads; ``writes``: outputs of each group.
        why: what it is and where, for messages.
        macs_each, params_each: of one input channel and one output, the bias apart.
    """

    reads: int
    writes: int
    why: str
    macs_each: int
    params_each: int
    has_bias: bool

    def groups(self, live: Sequence[Bits], choice: Choice) -> list[tuple[Bits, Bits]]:
        """For each group what it reads and what it writes, counted from its own first channel; zeros if it is gone."""
        source, kept = live[self.inputs[0]], choice.keep.get(self.module, full(self.width))
        found = []
        for place in range(self.width // self.writes):
            held = source >> (place * self.reads) & full(self.reads)
            own = kept >> (place * self.writes) & full(self.writes)
            found.append((held, own) if held and own else (0, 0))
        return found

    def read(self, live: Sequence[Bits], choice: Choice) -> Bits:
        """The channels of the input that groups read."""
        bits = 0
        for place, (held, _) in enumerate(self.groups(live, choice)):
            bits |= held << (place * self.reads)
        return bits

    def num_read(self, live: Sequence[Bits], choice: Choice) -> int:
        """How many channels each group reads."""
        return max(held.bit_count() for held, _ in self.groups(live, choice))

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        groups = self.groups(live, choice)
        sides = (
            ("read", self.inputs[0], [held for held, _ in groups]),
            ("write", self.index, [own for _, own in groups]),
        )
        for what, source, parts in sides:
            sizes = [part.bit_count() for part in parts]
            if len(set(sizes) - {0}) > 1 and not choice.any_groups:
                raise Uneven(self, source, what, sizes)
        bits = 0
        for place, (_, own) in enumerate(groups):
            bits |= own << (place * self.writes)
        return bits


@dataclass(frozen=True, kw_only=True)
class Mix(Step):
    """A convolution, transposed or not, or a linear layer: each output reads all inputs; the plan says which stay.

    Without live inputs it is dead itself: its bias goes with it.

    Attributes:
        in_width, in_span: channels of the input and features of each; their product is the layer's width.
        whole: the set of an input that is always complete, else 0.
        complete: the set that the input must have if its channels lie along another dimension, else 0.
        why: what it is and where, for messages.
        macs_each, params_each: of one input feature and one output, the bias apart.
        follows: the step whose channels these only scale; without them they are not needed.
        turned: whether its weight is ``[in, out, ...]``: a transposed convolution.
    """

    in_width: int
    in_span: int
    whole: Bits
    complete: Bits
    why: str
    macs_each: int
    params_each: int
    has_bias: bool
    follows: int | None = None
    turned: bool = False

    def source(self, live: Sequence[Bits]) -> Bits:
        """Live channels of the tensor it reads."""
        bits = live[self.inputs[0]]
        if self.complete and bits != self.complete:
            raise Blocked(self, self.inputs[0])
        return self.whole or bits

    def features(self, live: Sequence[Bits], choice: Choice) -> Bits:
        """Input features that it still reads."""
        selected = choice.inputs.get(self.module)
        bits = widen(self.source(live), self.in_span)
        return bits if selected is None else bits & selected

    def num_features(self, live: Sequence[Bits], choice: Choice) -> int:
        """How many input features it still reads."""
        if self.module in choice.inputs:
            return self.features(live, choice).bit_count()
        return self.source(live).bit_count() * self.in_span

    def live(self, live: Sequence[Bits], choice: Choice) -> Bits:
        if not self.num_features(live, choice):
            return 0
        kept = choice.keep.get(self.module, full(self.width))
        return kept if self.follows is None else kept & live[self.follows]
