"""Gates into a net: which convolutions can have one, and the net with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from prunebench.errors import UserError
from prunebench.layers.gated_conv import GatedConv, Moved, why_not
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace
from prunebench.surgery.sources import known_parts, only_read_by, sources


def gatable(names: Sequence[str], net: nn.Module, graph: ChannelGraph) -> tuple[list[str], list[dict[str, str]]]:
    """Those of the layers that can have a gate, and the others with the reason."""
    gated: list[str] = []
    reasons: list[dict[str, str]] = []
    for name in names:
        norm = graph.layers[name].norm
        reason = graph.why_not(name) or why_not(net.get_submodule(name), net.get_submodule(norm) if norm else None)
        if reason is None:
            gated.append(name)
        else:
            reasons.append({"layer": name, "reason": reason})
    return gated, reasons


def gate_layers(
    names: Sequence[str], net: nn.Module, graph: ChannelGraph, *, hidden_ratio: int | None, gate: Mapping[str, Any]
) -> nn.Module:
    """A copy of ``net`` in which a :class:`GatedConv` stands for each named convolution and its norm.

    Args:
        names: of :func:`gatable` layers.
        graph: of the net without gates.
        hidden_ratio: None = one linear layer a gate; r = a hidden layer of a r-th of its outputs, at least one unit.
        gate: further options of :class:`prunebench.layers.saliency.SaliencyPruning`.
    """
    reads = {name: known_parts(sources(graph, name), dict.fromkeys(names)) for name in names}
    norms = {norm for name in names if (norm := graph.layers[name].norm)}

    def swap(path: str, module: nn.Module) -> nn.Module | None:
        if path in norms:
            return Moved()
        if path not in reads:
            return None
        layer, readers = graph.layers[path], only_read_by(graph, path)
        alone = ((path, layer.out_channels),)
        hidden = None if hidden_ratio is None else max(1, layer.out_channels // hidden_ratio)
        norm = copy.deepcopy(net.get_submodule(layer.norm)) if layer.norm else None
        assert isinstance(module, nn.Conv2d) and (norm is None or isinstance(norm, nn.BatchNorm2d))
        return GatedConv.around(
            module,
            norm,
            gate={**gate, "hidden": hidden, "may_be_empty": may_be_empty(graph, path)},
            reads=reads[path],
            narrow=bool(readers) and all(reads.get(reader) == alone for reader in readers or ()),
        )

    return replace(net, swap)


def may_be_empty(graph: ChannelGraph, name: str) -> bool:
    """Whether an addition or a concatenation bypasses the layer, so that something reaches the output without it."""
    try:
        graph.check(Plan(keep={name: ()}))
    except UserError:
        return False
    return True
