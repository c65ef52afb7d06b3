"""Widths that are worth most in a share of the MACs or parameters, where somebody has measured what each is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from prunebench.budget import by_cost
from prunebench.budget.allotments import Counts, Family
from prunebench.budget.ranked import Unit
from prunebench.surgery.computed import Sizes, counted_sizes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.plan import Plan

PARTS = 1000  # of what can go: so finely the best widths are looked for, single channels come behind


class Counted:
    """What layers cost in MACs or parameters, without their norms; see :class:`prunebench.budget.by_cost.Price`.

    Args:
        graph: of the dense net.
        what: "macs" or "params".
    """

    def __init__(self, graph: ChannelGraph, what: str) -> None:
        self._steps = {step.module: step for step in graph.steps if isinstance(step, Mix | Grouped | Depthwise)}
        self._groups = {name: layer.groups for name, layer in graph.layers.items()}
        self._what = what
        self.dense_cost = float(graph.dense_macs if what == "macs" else graph.dense_params)

    @property
    def layers(self) -> Iterable[str]:
        """All that read or write channels."""
        return self._steps

    def learn(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Everything is known."""

    def cost(self, layer: str, reads: int, writes: int) -> float:
        """Of one layer that reads and writes so many features; groups lose equally."""
        step = self._steps[layer]
        each = step.macs_each if self._what == "macs" else step.params_each
        if isinstance(step, Depthwise):
            return float(each * writes)
        return each * writes * reads / (self._groups[layer] if isinstance(step, Grouped) else 1)


def by_value(
    units: Sequence[Unit],
    plan_of: Callable[[Counts], Plan],
    graph: ChannelGraph,
    what: str,
    value: Callable[[Plan], float],
) -> tuple[Family, dict[str, dict[str, float]]]:
    """The counts that are worth most in each share of the dense net's MACs or parameters.

    Args:
        what: "macs" or "params".
        value: what a plan that cuts one unit is worth.

    Returns:
        Share of what can go -> counts, up to what :class:`Counted` leaves out; and what was measured: first layer of a
        unit -> channels kept -> worth.
    """

    def sizes(counts: Counts) -> Sizes:
        return counted_sizes(graph, plan_of(counts))

    found = by_cost.allocation(units, sizes, Counted(graph, what), lambda counts: value(plan_of(counts)))

    @cache
    def solved(part: int) -> Counts:
        options = found.solve(found.least + (1 - part / PARTS) * (1 - found.least))
        return tuple(unit.size - kept[at] for unit, kept, at in zip(units, found.kept, options, strict=True))

    def family(share: float) -> Counts:
        return solved(round(PARTS * share))

    curves = zip(units, found.kept, found.worth, strict=True)
    worth = {unit.layers[0]: dict(zip(map(str, kept), line.tolist(), strict=True)) for unit, kept, line in curves}
    return family, worth
