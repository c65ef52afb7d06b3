"""Grouped convolutions: the sets of its channels of which a layer must keep equally many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.pieces import written_by
from prunebench.surgery.sets import Bits, full, to_bits
from prunebench.surgery.steps import Add, Cat, Expanded, Multiply, Piece, Reorder, Shift, Step, Through

Cells = tuple[tuple[Bits, ...], ...]
"""One or two ways to share out a layer's channels in as many sets of one size, of which equally many have to stay."""

_DEAD, _WHOLE, _UNKNOWN = -1, -2, -3  # in place of the number of a channel


def bound(steps: Sequence[Step], name: Callable[[Step], str]) -> dict[str, str]:
    """The layers that must keep equally many channels of some sets, with the reason."""
    found: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Grouped):
            for layer, _ in written_by(steps, step.inputs[0], full(steps[step.inputs[0]].width)):
                found.setdefault(layer, f"its channels reach {name(step)}, whose groups must stay of one size")
    own = "it is a grouped convolution ({} groups), of which each must keep equally many channels"
    return found | {s.module: own.format(s.width // s.writes) for s in steps if isinstance(s, Grouped)}


def equal_cells(
    steps: Sequence[Step], groups: Sequence[Sequence[str]], name: Callable[[Step], str]
) -> tuple[dict[str, Cells], dict[str, str]]:
    """The cells of each layer in whose channels groups are laid out, so that any plan that keeps equally many is even.

    Args:
        steps: of the net.
        groups: of layers that may be cut, each of which shares one keep-set; all other layers are whole.
        name: what a step is, for the reasons.

    Returns:
        Layer -> its cells, and the layers that must stay whole since no such cells exist, with the reason.
    """
    leaders = {layer: group[0] for group in groups for layer in group}
    whole: dict[str, str] = {}
    while True:
        owners = _owners(steps, {layer: leader for layer, leader in leaders.items() if layer not in whole})
        labels: dict[str, list[Tensor]] = {}
        failed: dict[str, str] = {}
        for step in steps:
            if isinstance(step, Grouped):
                reason = f"its channels reach the groups of {name(step)} and cannot be cut equally in all of them"
                for leader, found in _shared_out(steps, owners, step).items():
                    for label in found:
                        if label is None or not _take_in(labels.setdefault(leader, []), label):
                            failed.setdefault(leader, reason)
        if not failed:
            break
        whole |= {layer: failed[leader] for layer, leader in leaders.items() if leader in failed}
    cells = {leader: tuple(map(_cells, found)) for leader, found in labels.items()}
    return {layer: cells[leader] for layer, leader in leaders.items() if leader in cells}, whole


class _Owners:
    """For each step's channels the number of the (leader's) channel that decides whether they live."""

    def __init__(self, leaders: Mapping[str, str]) -> None:
        self.leaders = leaders
        self.first: dict[str, int] = {}  # number of a leader's first channel
        self.widths: dict[str, int] = {}
        self.of: list[Tensor] = []
        self._next = 0

    def written(self, step: Step) -> Tensor:
        """Channels that a layer writes."""
        leader = self.leaders.get(step.module)
        if leader is None:
            return _same(_WHOLE, step.width)
        if leader not in self.first:
            self.first[leader], self.widths[leader] = self._next, step.width
            self._next += step.width
        return torch.arange(step.width) + self.first[leader]


def _owners(steps: Sequence[Step], leaders: Mapping[str, str]) -> _Owners:
    owners = _Owners(leaders)
    for step in steps:
        owners.of.append(_owner(owners, step))
    return owners


def _owner(owners: _Owners, step: Step) -> Tensor:
    if isinstance(step, Mix | Grouped):
        return owners.written(step)
    read = [owners.of[source] for source in step.inputs]
    if isinstance(step, Add):
        left, right = (_same(_WHOLE, step.width) if whole else own for own, whole in zip(read, step.whole, strict=True))
        return _joined(left, right, is_product=isinstance(step, Multiply))
    if isinstance(step, Cat):
        found = _same(_DEAD, step.width)
        for own, offset, whole in zip(read, step.offsets, step.whole, strict=True):
            piece = _same(_WHOLE, whole.bit_length()) if whole else own
            found[offset : offset + len(piece)] = piece
        return found
    if isinstance(step, Reorder):
        return read[0][torch.tensor(step.order)]
    if isinstance(step, Through) or (isinstance(step, Expanded) and step.axis is not None):
        return read[0]
    if isinstance(step, Piece):
        return read[0][step.offset : step.offset + step.width]
    if isinstance(step, Shift):
        found = _same(_DEAD, step.width)
        found[step.offset : step.offset + len(read[0])] = read[0]
        return found
    if isinstance(step, Depthwise):
        return read[0].repeat_interleave(step.multiplier)
    return _same(_WHOLE if step.axis is None else _UNKNOWN, step.width)


def _same(value: int, width: int) -> Tensor:
    return torch.full((width,), value)


def _joined(left: Tensor, right: Tensor, *, is_product: bool) -> Tensor:
    """Who decides about the channels of a sum, or of a product."""
    neutral, strong = (_WHOLE, _DEAD) if is_product else (_DEAD, _WHOLE)
    found = torch.where(left == right, left, _UNKNOWN)
    found = torch.where(left == neutral, right, torch.where(right == neutral, left, found))
    return torch.where((left == strong) | (right == strong), strong, found)


def _shared_out(steps: Sequence[Step], owners: _Owners, step: Grouped) -> dict[str, list[Tensor | None]]:
    """For each leader that a grouped convolution depends on labels of its channels; None where there are no such."""
    num_groups = step.width // step.writes
    read = owners.of[step.inputs[0]].view(num_groups, step.reads)
    numbers = read.flatten().tolist()
    found: dict[str, list[Tensor | None]] = {}
    even = not bool((read == _UNKNOWN).any())
    for fixed in (_WHOLE, _DEAD):
        counts = (read == fixed).sum(1)
        even = even and bool((counts == counts[0]).all())
    for leader, first in owners.first.items():
        width = owners.widths[leader]
        places = [place for place, number in enumerate(numbers) if first <= number < first + width]
        if not places:
            continue
        label = _same(_UNKNOWN, width)
        label[torch.tensor([numbers[place] - first for place in places])] = torch.tensor(places) // step.reads
        once = len(places) == width and bool((label != _UNKNOWN).all())
        found[leader] = [label if even and once and _is_even(label, num_groups) else None]
    if not even:  # sums and products hide whose channels they are
        writers = {layer for layer, _ in written_by(steps, step.inputs[0], full(steps[step.inputs[0]].width))}
        found |= {owners.leaders[layer]: [None] for layer in writers if layer in owners.leaders}
    if step.module in owners.leaders:
        found.setdefault(owners.leaders[step.module], []).append(torch.arange(step.width) // step.writes)
    return found


def _is_even(label: Tensor, number: int | None = None) -> bool:
    """Whether each label is as frequent as the others."""
    counts = label.unique(return_counts=True)[1]
    return bool((counts == counts[0]).all()) and number in (None, len(counts))


def _take_in(known: list[Tensor], label: Tensor) -> bool:
    """Add a label to those that hold at once; False where no plan could keep equally many for all of them.

    Two labels are one if each channel of the first is as often with each of the second. Otherwise both stand, if they
    have equally many values: as many channels can go at a time, one of each value of both.
    """
    for place, other in enumerate(known):
        both: Tensor = torch.stack([label, other], 1).unique(dim=0, return_inverse=True)[1]
        if _is_even(both):
            known[place] = both
            return len({len(one.unique()) for one in known}) == 1
    known.append(label)
    return len(known) <= 2 and len({len(one.unique()) for one in known}) == 1


def _cells(label: Tensor) -> tuple[Bits, ...]:
    return tuple(to_bits((label == value).nonzero().flatten().tolist()) for value in label.unique().tolist())
