"""Layers that lose bundles of channels: whole attention heads, the same channels of two factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from prunebench.budget.counts import Floor
from prunebench.budget.ranked import Unit, ranked_scores, removal_order
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.pieces import completed
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import to_bits, to_indices
from prunebench.surgery.ties import Bundle, Tie


@dataclass(frozen=True)
class BundleUnit(Unit):
    """A unit whose channels go in bundles; ``order`` and ``scores`` name the bundle of each channel.

    Attributes:
        bundles: in the order of removal.
        ends: how many channels are gone after each of them.
    """

    bundles: tuple[Bundle, ...] = ()
    ends: tuple[int, ...] = ()

    def differing(self, ratios: str) -> str:
        """What to tell who asks for several ``ratios``."""
        return f"these layers only work with the same channels but have different ratios: {ratios}; give them one ratio"

    def prune(self, num_wanted: int) -> int:
        """How many really go: whole bundles, as far as the floor allows."""
        return max((end for end in self._allowed() if end <= num_wanted), default=self.num_dead)

    def neighbours(self, num_pruned: int) -> tuple[int, ...]:
        """The next smaller and the next larger number that can go."""
        smaller = [end for end in self._allowed() if end < num_pruned]
        larger = [end for end in self._allowed() if end > num_pruned]
        return (*smaller[-1:], *larger[:1])

    def kept(self, num_pruned: int) -> dict[str, tuple[int, ...]]:
        """Indices that stay of each layer, ascending."""
        left = [bundle for bundle, end in zip(self.bundles, self.ends, strict=True) if end > num_pruned]
        bits = {name: sum(bundle.get(name, 0) for bundle in left) for name in self.layers}
        return {name: tuple(to_indices(own)) for name, own in bits.items()}

    def _allowed(self) -> list[int]:
        ends = (end for end in (0, *self.ends) if end >= self.num_dead)
        return [end for end in ends if self.floor.keep(self.size, self.size - end) == self.size - end]


def bundle_unit(
    tie: Tie, scores: Mapping[str, Tensor], graph: ChannelGraph, before: Plan, floor: Floor, *, even: bool
) -> BundleUnit:
    """Rank the bundles of a tie.

    Args:
        tie: what goes together.
        scores: of some of its layers, ``[channels]``. A bundle is worth the mean of its channels in each layer, summed.
        before: what an earlier step has left.
        floor: what stays.
        even: compare only bundles of the same layers, so that of each kind an equal share goes first. A stream that
            runs on behind a concatenation would else stay whole: more layers write it, and their scores are added.
    """
    values = torch.tensor(
        [
            sum(float(scores[name][to_indices(bits)].mean()) for name, bits in bundle.items() if name in scores)
            for bundle in tie.bundles
        ],
        dtype=torch.float64,
    )
    values = _shares(tie, values) if even else values
    gone = {name: _gone(before, name, graph.layers[name].out_channels) for name in tie.layers}
    dead = [
        place
        for place, bundle in enumerate(tie.bundles)
        if any(bits & gone[name] == bits for name, bits in bundle.items())
    ]
    pieces = [_touched(tie, name, piece) for name in tie.layers for piece in (graph.pieces(name) or (-1,))]
    order = removal_order(values, dead=dead, pieces=pieces)
    sizes = [max(bits.bit_count() for bits in tie.bundles[place].values()) for place in order]
    least = completed(0, pieces, order) or 1 << order[-1]
    num_needed = sum(size for place, size in zip(order, sizes, strict=True) if least >> place & 1)
    ranked = ranked_scores(values, order, len(dead))
    return BundleUnit(
        layers=tie.layers,
        order=tuple(place for place, size in zip(order, sizes, strict=True) for _ in range(size)),
        scores=tuple(score for score, size in zip(ranked, sizes, strict=True) for _ in range(size)),
        num_dead=sum(sizes[: len(dead)]),
        floor=floor.at_least(num_needed),
        bundles=tuple(tie.bundles[place] for place in order),
        ends=tuple(accumulate(sizes)),
    )


def _shares(tie: Tie, values: Tensor) -> Tensor:
    """For each bundle the share of those of the same layers that are worth less, or as much and come first."""
    kinds: dict[frozenset[str], list[int]] = {}
    for place, bundle in enumerate(tie.bundles):
        kinds.setdefault(frozenset(bundle), []).append(place)
    shares = torch.empty_like(values)
    for places in kinds.values():
        order = values[places].argsort(stable=True)
        shares[torch.tensor(places)[order]] = torch.arange(len(places), dtype=values.dtype) / len(places)
    return shares


def _gone(before: Plan, name: str, width: int) -> int:
    return to_bits(set(range(width)).difference(before.keep.get(name, range(width))))


def _touched(tie: Tie, name: str, piece: int) -> int:
    """The bundles that have channels in a piece of a layer."""
    return to_bits(place for place, bundle in enumerate(tie.bundles) if bundle.get(name, 0) & piece)
