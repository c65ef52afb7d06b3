"""Multiply-accumulates of nets whose channels are switched per sample: a closed form of the decisions.

A counter below the modules sees the masked computation, which computes everything; this counts what is left of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.sources import known_parts, sources

NUM_BINS = 20  # of the histogram, over the shares of the dense net's MACs from 0 to 1


@dataclass(frozen=True, kw_only=True)
class GatedLayer:
    """A convolution whose output channels each sample switches.

    Attributes:
        name: its key among the decisions.
        macs_each: multiply-accumulates of one input and one output channel: kernel area x output positions.
        in_channels, out_channels: of the dense layer.
        reads: what its input is made of: (gated layer or None, channels); from a gated layer only the channels count
            that the sample keeps there.
    """

    name: str
    macs_each: int
    in_channels: int
    out_channels: int
    reads: Sequence[tuple[str | None, int]]


@dataclass(frozen=True)
class PerSampleMacs:
    """MACs of each sample from its decisions.

    Attributes:
        layers: the gated ones.
        ungated: MACs of all others, the same for each sample.
    """

    layers: Sequence[GatedLayer]
    ungated: int

    @classmethod
    def of(cls, names: Sequence[str], graph: ChannelGraph, *, dense_macs: int) -> PerSampleMacs:
        """The form for a net in which the convolutions ``names`` are gated; ``dense_macs`` is the net's count."""
        layers = []
        for layer in (graph.layers[name] for name in names):
            layers.append(
                GatedLayer(
                    name=layer.name,
                    macs_each=layer.kernel_area * layer.positions,
                    in_channels=layer.in_channels,
                    out_channels=layer.out_channels,
                    reads=known_parts(sources(graph, layer.name), dict.fromkeys(names)),
                )
            )
        gated = sum(layer.macs_each * layer.in_channels * layer.out_channels for layer in layers)
        return cls(layers, ungated=dense_macs - gated)

    @property
    def full(self) -> int:
        """MACs with every channel kept: those of the dense net."""
        return self.ungated + sum(layer.macs_each * layer.in_channels * layer.out_channels for layer in self.layers)

    def by_layer(self, decisions: Mapping[str, Tensor]) -> Tensor:
        """``[batch, layers]``, float64; differentiable in the decisions (``[batch, channels]``, 0 or 1)."""
        kept = {name: decision.double().sum(1) for name, decision in decisions.items()}
        columns = []
        for layer in self.layers:
            num_out = kept[layer.name]
            num_in = torch.zeros_like(num_out)
            for source, width in layer.reads:
                num_in = num_in + (width if source is None else kept[source])
            columns.append(layer.macs_each * num_in * num_out)
        return torch.stack(columns, dim=1)

    def ratios(self, decisions: Mapping[str, Tensor]) -> Tensor:
        """Share of the dense net's MACs that each sample costs, ``[batch]``, float64, in (0, 1]."""
        return (self.by_layer(decisions).sum(1) + self.ungated) / self.full


def distribution(macs: Tensor, full: int) -> dict[str, Any]:
    """Mean, standard deviation (of a sample), extremes and histogram of per-sample ``macs``, ``[samples]``.

    ``histogram.counts`` are of equal bins of the share of ``full`` from 0 to 1; the last one includes 1.
    """
    values = macs.double()
    counts = torch.histc(values / full, bins=NUM_BINS, min=0.0, max=1.0)
    return {
        "num_samples": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()) if len(values) > 1 else 0.0,
        "min": int(values.min()),
        "median": float(statistics.median(values.tolist())),
        "max": int(values.max()),
        "histogram": {
            "edges": [i / NUM_BINS for i in range(NUM_BINS + 1)],
            "counts": [int(count) for count in counts.tolist()],
        },
    }
