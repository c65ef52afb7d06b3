"""Layers with masks, and which of them share their channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph


@dataclass(frozen=True)
class MaskedGroups:
    """Groups of layers that keep the same channels.

    Attributes:
        norms: layer with a mask -> the norm behind which it is, in the order of execution.
        groups: of layers that share their channels, those with masks first; layers without follow them.
    """

    norms: Mapping[str, str]
    groups: Sequence[tuple[str, ...]]

    @classmethod
    def of(cls, graph: ChannelGraph, names: Sequence[str], *, whole: Collection[str], aligned: bool) -> MaskedGroups:
        """The masks that can be of use.

        Args:
            names: layers that may have a mask.
            whole: layers that stay whole, and with them all that share their channels.
            aligned: layers that meet in an addition share their channels; else each has its own.
        """
        every: Sequence[tuple[str, ...]] = graph.groups() if aligned else [(name,) for name in names]
        groups = [group for group in every if any(name in names for name in group)]
        free = [group for group in groups if not any(name in whole or graph.why_not(name) for name in group)]
        masked = {name: str(graph.layers[name].norm) for group in free for name in group if name in names}
        return cls(
            {name: masked[name] for name in names if name in masked},
            [tuple(sorted(group, key=lambda name: name not in masked)) for group in free],
        )

    def shares(self, importances: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The importance of the channels of each layer: the mean over the masks of its group, ``[channels]``."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            mean = torch.stack([importances[name] for name in group if name in self.norms]).mean(0)
            found |= dict.fromkeys(group, mean)
        return found

    def apart(self, shares: Mapping[str, Tensor]) -> list[Tensor]:
        """One of them for each group."""
        return [shares[group[0]] for group in self.groups]

    def scores(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the layers with masks, such that they add up to the share of their group."""
        sizes = {name: sum(member in self.norms for member in group) for group in self.groups for name in group}
        return {name: shares[name] / sizes[name] for name in self.norms}
