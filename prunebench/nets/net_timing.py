"""What a plan costs in time: predicted from the times of single layers, and measured on the small net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.measure import latency
from prunebench.measure.layer_times import LayerTimes, least_seconds
from prunebench.measure.operations import Operation, operations
from prunebench.nets.engines import runner
from prunebench.surgery.computed import Sizes, computed_sizes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

MIN_SECONDS = 0.5  # for which each of two nets is measured


@dataclass(frozen=True, kw_only=True)
class NetTiming:
    """The clock of one dense net in one program, see :class:`prunebench.budget.by_cost.Timing`.

    Attributes:
        net: the dense net, any weights; ``graph``: of it.
        example: one input, ``[1, ...]``.
        times: of layers; says program, batch size and machine.
    """

    net: nn.Module
    graph: ChannelGraph
    example: Tensor
    times: LayerTimes

    @property
    def layers(self) -> Iterable[str]:
        """Those whose time depends on their width."""
        return self._operations

    def learn(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Measure layers in some widths, all in turn, where the table lacks them."""
        self.times.seconds(self._sized(*one) for one in wanted)

    def cost(self, layer: str, reads: int, writes: int) -> float:
        """Of one layer that reads and writes so many features, alone; 0 if it does neither."""
        if not reads or not writes:
            return 0.0
        operation = self._sized(layer, reads, writes)
        return self.times.seconds([operation])[operation]

    def sizes(self, plan: Plan) -> Sizes:
        """In which the layers of the small net compute: torch on a CPU takes the narrow form."""
        return computed_sizes(self.graph, plan, narrow=self.times.circumstances["engine"] == latency.TORCH)

    @cached_property
    def dense_cost(self) -> float:
        """Of the whole dense net: the least of several runs, as of the layers."""
        ready, x = self._ready(self.net), self._inputs()

        def call() -> None:
            with torch.inference_mode():
                ready(x)

        return least_seconds(call)

    def share(self, plan: Plan) -> float:
        """Time of the small net as a share of the dense one's, both measured in turn."""
        nets = {"dense": self.net, "final": shrink(self.net, self.graph, plan)}
        ready = {name: self._ready(net) for name, net in nets.items()}
        found = latency.compare(ready, self._inputs()[:1], batches=(self._batch,), min_seconds=MIN_SECONDS)
        return 1.0 / float(found["speedup"][f"batch_{self._batch}"])

    def facts(self) -> dict[str, Any]:
        """Program, threads, batch, machine, and the hash of the table."""
        return {**self.times.circumstances, "table_sha256": self.times.sha256}

    def _sized(self, layer: str, reads: int, writes: int) -> Operation:
        return self._operations[layer].sized(reads, writes)

    @cached_property
    def _operations(self) -> Mapping[str, Operation]:
        return operations(self.graph)

    @property
    def _batch(self) -> int:
        return int(self.times.circumstances["batch"])

    def _ready(self, net: nn.Module) -> latency.Runner:
        return runner(self.times.circumstances["engine"], net, self.example)

    def _inputs(self) -> Tensor:
        """One batch; ONNX Runtime knows one memory format only."""
        x = latency.repeated(self.example, self._batch)
        return x if self.times.circumstances["engine"] == latency.TORCH else x.contiguous()
