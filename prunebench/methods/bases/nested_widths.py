"""Widths at which a net whose channels are ordered can be cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunebench.core.context import Point
from prunebench.core.method import match_layers
from prunebench.layers.ordered_mask import Blocks
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

Width = float | Mapping[str, float]
"""rho in [0, 1], or a table name or glob of layers -> rho, where the first match wins and no match keeps all."""


@dataclass(frozen=True)
class NestedWidths:
    """At a width rho a layer keeps its frozen blocks and the first floor(rho K) of the K others.

    Attributes:
        blocks: layer -> its blocks.
    """

    blocks: Mapping[str, Blocks]

    def plan(self, width: Width) -> Plan:
        """What stays at a width; nothing is named that stays whole."""
        if isinstance(width, Mapping):
            shares = dict.fromkeys(self.blocks, 1.0)
            for pattern, share in reversed(list(width.items())):
                shares |= dict.fromkeys(match_layers([pattern], self.blocks, what="method.width"), share)
        else:
            shares = dict.fromkeys(self.blocks, width)
        kept = {name: blocks.kept(shares[name]) * blocks.size for name, blocks in self.blocks.items()}
        return Plan(keep={name: tuple(range(n)) for name, n in kept.items() if n < self.blocks[name].channels})

    def points(self, number: int) -> list[float]:
        """Of so many widths, evenly from the whole net down, those with a plan of their own."""
        last = max(1, number - 1)
        widths = [1 - i / last for i in range(number)]
        return list({self.plan(width).to_json(): width for width in reversed(widths)}.values())[::-1]

    def facts(self, width: Width, graph: ChannelGraph) -> dict[str, Any]:
        """Facts of a width; parameters without those of the noise, which the counted net has too."""
        plan = self.plan(width)
        total = sum(blocks.channels for blocks in self.blocks.values())
        gone = sum(self.blocks[name].channels - len(kept) for name, kept in plan.keep.items())
        return {
            "width": width,
            "masked_channels": total,
            "masked_channels_kept": total - gone,
            "params_at_means": graph.params(plan),
        }

    def point(self, width: float, net: nn.Module, graph: ChannelGraph) -> Point:
        """The operating point of ``net``, which has this width."""
        return Point(name=f"width_{width:.4g}", net=net, settings=self.facts(width, graph))
