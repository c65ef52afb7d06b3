"""Our count of a cut net in the convention of a row, beside the published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from prunebench.budget import ratio_table
from prunebench.errors import UserError
from prunebench.measure.layer_sizes import layer_sizes, macs_with_bias, thop_macs
from prunebench.rows.conventions import PROJECTIONS
from prunebench.rows.row import Row
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

LIMIT = 0.01
"""A count that differs by more than this share of the published one needs a reason in the row."""


@dataclass(frozen=True)
class Count:
    """A published count of a row and ours of the same thing.

    Attributes:
        row: name of the row or arm.
        what: ``macs``, ``flops``, ``params``, the same with ``dense_``, ``macs_removed`` or ``params_removed``.
        published, ours: in the convention of the row.
        note: the reason that the row gives for a difference.
    """

    row: str
    what: str
    published: float
    ours: float
    note: str | None

    @property
    def difference(self) -> float:
        """Ours relative to the published one, a fraction."""
        return self.ours / self.published - 1

    @property
    def differs(self) -> bool:
        """Beyond :data:`LIMIT`."""
        return abs(self.difference) > LIMIT

    @property
    def unexplained(self) -> bool:
        """It differs and the row does not say why."""
        return self.differs and not self.note


def compare_counts(
    row: Row, graph: ChannelGraph, plan: Plan, rates: Mapping[str, float], *, base: ChannelGraph | None = None
) -> list[Count]:
    """Every count that the row publishes, beside ours.

    Args:
        row: a row or an arm.
        graph: of its dense net.
        plan: a cut of the row's ratios.
        rates: layer -> real-valued share of its channels that goes, for the nominal conventions.
        base: of the net that ``plan`` cuts; None = the dense one.
    """
    base = base or graph
    ours: dict[str, float] = {
        "params": count_params(base, plan, row.convention),
        "dense_params": count_params(graph, Plan(), row.convention),
    }
    if row.convention not in ("unstated", "none"):
        size = "flops" if row.convention == "flops_two_per_mac" else "macs"
        ours[size] = count(base, plan, row.convention, rates)
        ours[f"dense_{size}"] = count(graph, Plan(), row.convention, {})
        ours["macs_removed"] = 1 - ours[size] / ours[f"dense_{size}"]
    ours["params_removed"] = 1 - ours["params"] / ours["dense_params"]
    found = []
    for what, value in ours.items():
        published = row.reported.get(what, row.printed.get(what))
        if isinstance(published, int | float) and published:
            found.append(Count(row.name, what, published, value, row.macs_note))
    return found


def compare_params(row: Row, params: int) -> list[Count]:
    """The published parameters of the dense net beside ours, for a net whose channels are not planned.

    Args:
        row: a row or an arm; of a baseline ``params`` are those of the dense net too.
        params: of our dense net.
    """
    names = ["dense_params", *(["params"] if row.kind == "baseline" else [])]
    published = {name: row.reported.get(name, row.printed.get(name)) for name in names}
    return [
        Count(row.name, name, value, params, row.macs_note)
        for name, value in published.items()
        if isinstance(value, int | float) and value
    ]


def count(graph: ChannelGraph, plan: Plan, convention: str, rates: Mapping[str, float]) -> float:
    """What a paper with this convention would print for the net that ``plan`` leaves of ``graph``'s.

    Raises:
        UserError: the convention does not define a count.
    """
    match convention:
        case "conv_linear" | "flops_two_per_mac":
            return graph.macs(plan) * (2 if convention == "flops_two_per_mac" else 1)
        case "conv_linear_no_projection":
            return sum(size.macs for name, size in layer_sizes(graph, plan).items() if not _is_projection(name))
        case "conv_nominal" | "conv_nominal_projection":
            return _nominal(graph, rates, projections=convention == "conv_nominal_projection")
        case "thop":
            return thop_macs(graph, plan)
        case "macs_bias":
            return macs_with_bias(graph, plan)
        case _:
            raise UserError(f"the convention {convention} defines no count")


def count_params(graph: ChannelGraph, plan: Plan, convention: str) -> int:
    """Parameters of the shrunk net; Li et al. (2017) leave the shortcuts out of them too (ResNet-34: 2.16e7)."""
    total = graph.params(plan)
    if convention == "conv_linear_no_projection":
        total -= sum(size.params for name, size in layer_sizes(graph, plan).items() if _is_projection(name))
    return total


def nominal_rates(ratio: Any, graph: ChannelGraph, plan: Plan) -> dict[str, float]:
    """Layer -> nominal share of its channels that goes; a layer that loses none has the rate 0.

    Args:
        ratio: the method's ``prune_ratio``: a share, or a table of layer or glob -> share.
    """
    if isinstance(ratio, Mapping):
        return {name: rate for name, rate in ratio_table(ratio, graph.layers).items() if name in plan.keep}
    return dict.fromkeys(plan.keep, float(ratio or 0.0))


def _nominal(graph: ChannelGraph, rates: Mapping[str, float], *, projections: bool) -> float:
    """Real-valued rates: ``keep(layer) * keep(the layer it reads)`` of the dense count."""
    source = {reader: name for name, layer in graph.layers.items() for reader in layer.readers}
    total = 0.0
    for name, layer in graph.layers.items():
        if layer.kind == "linear" or (_is_projection(name) and not projections):
            continue
        macs = layer.positions * layer.kernel_area * layer.in_channels * layer.out_channels / layer.groups
        read = rates.get(source[name], 0.0) if name in source else 0.0
        total += macs * (1 - rates.get(name, 0.0)) * (1 - read)
    return total


def _is_projection(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)
