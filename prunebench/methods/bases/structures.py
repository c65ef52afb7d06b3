"""Where scales can switch whole structures off: residual blocks, channels, groups of a grouped convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunebench.errors import UserError
from prunebench.surgery.branches import residual_branches
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.sources import sources

KINDS = ("blocks", "channels", "groups")


@dataclass(frozen=True)
class Structure:
    """One place of scales.

    Attributes:
        name: of the block or layer, for messages.
        layer: the layer that loses channels with the structures: a plan names it.
        channels: of the module behind which the scales stand.
        size: number of structures; each has as many neighbouring channels.
        width: channels of ``layer``.
        bypassed: the layer at the end of the branch around it, which goes if no structure is left; None without one.
    """

    name: str
    layer: str
    channels: int
    size: int
    width: int
    bypassed: str | None

    def keep(self, alive: Sequence[bool]) -> dict[str, tuple[int, ...]]:
        """The part of a plan that removes the structures that are not ``alive``, ``[size]``."""
        if all(alive):
            return {}
        if not any(alive):
            assert self.bypassed is not None, f"nothing bypasses {self.name}"
            return {self.bypassed: ()}
        each = self.width // self.size
        return {self.layer: tuple(c for c in range(self.width) if alive[c // each])}


def find_structures(kind: str, graph: ChannelGraph) -> tuple[dict[str, Structure], list[dict[str, str]]]:
    """Path of the module behind which scales belong -> the structures there.

    Args:
        kind: one of :data:`KINDS`.
        graph: of the dense net.

    Returns:
        And ``{"layer", "reason"}`` of each layer that might be expected to have some and has none.
    """
    return {"blocks": _blocks, "channels": _channels, "groups": _groups}[kind](graph)


def _blocks(graph: ChannelGraph) -> tuple[dict[str, Structure], list[dict[str, str]]]:
    found = {}
    refused = []
    for branch in residual_branches(graph):
        if reason := _no_weights(branch.end, graph):
            refused.append({"layer": branch.last, "reason": reason})
            continue
        width = graph.layers[branch.last].out_channels
        found[branch.end] = Structure(branch.block, branch.last, width, 1, width, branch.last)
    return found, refused


def _channels(graph: ChannelGraph) -> tuple[dict[str, Structure], list[dict[str, str]]]:
    found: dict[str, Structure] = {}
    refused: list[dict[str, str]] = []
    for name, layer in graph.layers.items():
        if layer.is_output or layer.kind == "depthwise":
            continue
        reason = graph.why_not(name) or ("its channels meet an addition" if layer.meets_addition else None)
        reason = reason or _no_weights(layer.norm or name, graph)
        if reason is not None:
            refused.append({"layer": name, "reason": reason})
            continue
        width = layer.out_channels
        found[layer.norm or name] = Structure(name, name, width, width, width, _bypassed(name, graph))
    return found, refused


def _groups(graph: ChannelGraph) -> tuple[dict[str, Structure], list[dict[str, str]]]:
    found: dict[str, Structure] = {}
    refused: list[dict[str, str]] = []
    for name, layer in graph.layers.items():
        if layer.kind != "grouped":
            continue
        parts = sources(graph, name)
        writer = parts[0][0] if len(parts) == 1 else None
        reason = _no_weights(layer.norm or name, graph)
        if writer is None or not _can_lose_a_group(writer, layer.groups, graph):
            reason = "its groups do not read a layer of their own, whose channels could go with them"
        if writer is None or reason is not None:
            refused.append({"layer": name, "reason": str(reason)})
            continue
        width = graph.layers[writer].out_channels
        found[layer.norm or name] = Structure(
            name, writer, layer.out_channels, layer.groups, width, _bypassed(writer, graph)
        )
    return found, refused


def _no_weights(path: str, graph: ChannelGraph) -> str | None:
    """Why scales behind a module cannot become part of it in the end."""
    if path in graph.layers and graph.layers[path].kind == "transposed":
        return f"{path} is a transposed convolution without a norm behind it to take the scales in the end"
    whole = next(graph.traced.net.get_submodule(path).parameters(recurse=False), None) is not None
    return None if whole else f"{path} has no weights to take the scales in the end"


def _can_lose_a_group(writer: str, groups: int, graph: ChannelGraph) -> bool:
    width = graph.layers[writer].out_channels
    try:
        graph.check(Plan(keep={writer: tuple(range(width // groups, width))}))
    except UserError:
        return False
    return True


def _bypassed(name: str, graph: ChannelGraph) -> str | None:
    """The layer itself if an addition or a concatenation goes on without it."""
    try:
        graph.check(Plan(keep={name: ()}))
    except UserError:
        return None
    return name
