"""Groups of weights with gates: the weights of each channel that one layer alone reads, or each weight by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunebench.budget.by_inclusion import prices_by_macs
from prunebench.core.method import match_layers
from prunebench.errors import UserError
from prunebench.methods.bases.single_readers import UnitPlace, unit_places
from prunebench.surgery.graph import ChannelGraph


@dataclass(frozen=True, kw_only=True)
class GatedGroups:
    """The layers whose groups have gates.

    Attributes:
        paths: layer -> path of the module with the gates of its groups.
        places: layer -> where the gates of its channels stand; None: each weight has a gate.
        refused: ``{"layer", "reason"}`` of layers whose channels have no gates.
    """

    paths: Mapping[str, str]
    places: Mapping[str, UnitPlace] | None = None
    refused: Sequence[dict[str, str]] = ()

    def prices(self, price: float, graph: ChannelGraph, *, by_macs: bool) -> dict[str, float]:
        """Path of the module with gates -> price of an open one: ``price``, or that x its MACs / their mean."""
        prices = dict.fromkeys(self.paths, price)
        if by_macs:
            prices = prices_by_macs(graph, list(self.paths), price)
        return {self.paths[name]: own for name, own in prices.items()}


def weight_groups(graph: ChannelGraph, patterns: Sequence[str]) -> GatedGroups:
    """A gate for each weight of the layers that ``patterns`` (names and globs) name.

    Raises:
        UserError: a pattern matches no such layer.
    """
    known = [name for name, layer in graph.layers.items() if layer.kind not in ("depthwise", "transposed")]
    return GatedGroups(paths={name: name for name in match_layers(patterns, known, what="method.layers")})


def channel_groups(graph: ChannelGraph, patterns: Sequence[str]) -> GatedGroups:
    """A gate for each channel of the layers that ``patterns`` (names and globs) name, on the input of its reader.

    Raises:
        UserError: the net has no channel that one layer alone reads, or a pattern matches no layer with such ones.
    """
    places, refused = unit_places(graph)
    known = {name: place for name, place in places.items() if graph.layers[name].kind != "transposed"}
    if not known:
        raise UserError("this net has no layer whose channels one other layer alone reads; use method.mask=weight")
    chosen = {name: known[name] for name in match_layers(patterns, known, what="method.layers")}
    left_out = [{"layer": name, "reason": "method.layers leaves it out"} for name in places if name not in chosen]
    paths = {name: place.reader for name, place in chosen.items()}
    return GatedGroups(paths=paths, places=chosen, refused=refused + left_out)
