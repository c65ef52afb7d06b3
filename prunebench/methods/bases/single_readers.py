"""Units that one layer alone reads: a gate on its input is a gate on the unit, and nothing else has to follow."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix


@dataclass(frozen=True, kw_only=True)
class UnitPlace:
    """Where the units of a layer can have gates: on the input of the one layer that reads them.

    Attributes:
        layer, reader: their paths.
        units: channels of ``layer``.
        span: input features of ``reader`` for each.
    """

    layer: str
    reader: str
    units: int
    span: int


def unit_places(graph: ChannelGraph) -> tuple[dict[str, UnitPlace], list[dict[str, str]]]:
    """Layer -> its place, and ``{"layer", "reason"}`` of each hidden layer without one.

    Inside a residual block the channels have one reader; what is added to a stream has none, and stays.
    """
    places: dict[str, UnitPlace] = {}
    refused: list[dict[str, str]] = []
    mixes = {step.module: step for step in graph.steps if isinstance(step, Mix)}
    for name, layer in graph.layers.items():
        if layer.is_output or layer.kind == "depthwise":
            continue
        reader = mixes.get(layer.readers[0]) if len(layer.readers) == 1 else None
        reader = None if reader is not None and reader.turned else reader  # masks stand on columns of a weight
        reason = graph.why_not(name) or ("its channels meet an addition" if layer.meets_addition else None)
        if reason is None and reader is not None and graph.writers[reader.inputs[0]] == (name,):
            places[name] = UnitPlace(layer=name, reader=reader.module, units=layer.out_channels, span=reader.in_span)
        else:
            refused.append({"layer": name, "reason": reason or "its channels are not read by one layer alone"})
    together = graph.must_stay(places)
    refused += [{"layer": name, "reason": reason} for name, reason in together.items()]
    return {name: place for name, place in places.items() if name not in together}, refused
