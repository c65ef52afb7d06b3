"""Whole residual blocks: those whose last convolution is smallest go."""

from __future__ import annotations

from torch import nn

from prunebench.budget import Choice
from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


@validated
class BlockSelection(Method):
    """Empties the convolutions in front of additions that something bypasses.

    Args:
        number: of blocks that go.
    """

    schedules = frozenset({"oneshot"})

    def __init__(self, *, number: PositiveInt) -> None:
        super().__init__()
        self.number = number

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        found = _bypassed(run.graph)
        if len(found) < self.number:
            raise UserError(f"method.number={self.number}, but only {len(found)} blocks can go: {', '.join(found)}")

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        return run.cut(net, run.choose(lambda: self._smallest(net, run)))

    def _smallest(self, net: nn.Module, run: Run) -> Choice:
        norms = {name: float(net.get_parameter(f"{name}.weight").detach().norm()) for name in _bypassed(run.graph)}
        gone = sorted(norms, key=lambda name: norms[name])[: self.number]
        whole = [{"layer": name, "reason": "its block stays"} for name in norms if name not in gone]
        return Choice(Plan(keep=dict.fromkeys(gone, ())), whole, {})


def _bypassed(graph: ChannelGraph) -> list[str]:
    """Convolutions without which the net still works."""
    found = []
    for name in (name for name, layer in graph.layers.items() if layer.meets_addition):
        try:
            graph.check(Plan(keep={name: ()}))
        except UserError:
            continue
        found.append(name)
    return found
