"""What is left of a run's net, counted as its row counts, beside what the row publishes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.core.result import masked_share
from prunebench.errors import UserError
from prunebench.rows.printed import interval
from prunebench.rows.row import Row

if TYPE_CHECKING:
    from prunebench.surgery.graph import ChannelGraph
    from prunebench.surgery.plan import Plan

SIZES = (
    *("macs", "flops", "macs_removed", "macs_kept", "params", "params_removed", "compression", "sparsity"),
    *("dense_macs", "dense_flops", "dense_params"),
)
"""Published sizes that a reproduction must have, too."""
TOLERANCE = 0.01
"""What is left may differ by so much of the dense net; a dense net's own size by so much of itself."""
KEPT_TOLERANCE = 0.1
"""And by no more than this share of what the paper leaves, which is less where nearly all is removed."""
MAX_SIDE = 4096
"""Channels and pixels of a side of a picture, as a result says them."""
EXPLAINED = 3.0
"""A slip in a paper that a row explains is small; a reason for it is no reason for any difference."""

_OURS = ("conv_linear", "flops_two_per_mac")
"""Conventions in which a result has its counts."""
_COUNTS = ("macs", "flops", "macs_removed", "macs_kept", "dense_macs", "dense_flops")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A published size beside ours.

    Attributes:
        name: one of :data:`SIZES`.
        paper, ours: in the units of :data:`prunebench.rows.fields.FIELDS`, counted as the row counts.
        miss: their distance, however the paper's was rounded, as a multiple of what :data:`TOLERANCE` and
            :data:`KEPT_TOLERANCE` allow.
        note: why the published value is known to be off, by no more than :data:`EXPLAINED` times what is allowed; such
            a difference is stated and not held against a run.
    """

    name: str
    paper: float
    ours: float
    miss: float
    note: str | None = None

    @property
    def within(self) -> bool:
        """As near as the tolerance allows."""
        return self.miss <= 1

    @property
    def excused(self) -> bool:
        """It differs for the reason that the row gives."""
        return not self.within and bool(self.note) and self.miss <= EXPLAINED

    @property
    def fails(self) -> bool:
        """It differs, and no reason excuses it."""
        return not self.within and not self.excused


@dataclass(frozen=True)
class Own:
    """Our sizes in the convention of a row.

    Attributes:
        values: name -> size, those of :data:`SIZES` that are known.
        missing: name -> why a size that the row publishes cannot be given.
    """

    values: Mapping[str, float]
    missing: Mapping[str, str]


def published(row: Row) -> list[str]:
    """Names of the sizes that ``row`` publishes; what it prints beside them follows from them."""
    return [name for name in SIZES if name in row.reported] or [name for name in SIZES if name in row.printed]


def own_sizes(result: Mapping[str, Any], row: Row, folder: Path | None = None) -> Own:
    """The sizes of the run ``result`` as ``row`` counts.

    Args:
        result: content of ``result.json``.
        folder: of the run, whose plan tells what was cut; None = where the result says that it is.
    """
    wanted = published(row)
    if not wanted or not (result.get("cost") or {}).get("final"):
        return Own({}, {})
    values, missing = _stored(result), {}
    counts = [name for name in wanted if name in _COUNTS]
    if row.convention not in _OURS:
        values = {name: value for name, value in values.items() if name not in _COUNTS}
    if row.convention in ("none", "unstated"):
        missing = dict.fromkeys(counts, "the source does not say what it counts")
    elif row.convention not in _OURS:
        try:
            values |= _converted(result, row, folder or Path(result["run"]["folder"]))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            why = f"ours is not known as the paper counts ({error})"
            missing = dict.fromkeys(counts, why)
    return Own(values, missing | {name: "the run does not say" for name in wanted if name not in {*values, *missing}})


def mean_sizes(found: Sequence[Own]) -> Own:
    """The means over seeds; a size that one of them lacks is missing."""
    missing = {name: why for own in found for name, why in own.missing.items()}
    names = [name for name in SIZES if found and all(name in own.values for own in found)]
    return Own({name: sum(own.values[name] for own in found) / len(found) for name in names}, missing)


def compare_sizes(own: Own, row: Row) -> list[Size]:
    """Each size that ``row`` publishes and we have, with the verdict."""
    found = []
    for name in published(row):
        value = row.value(name)
        paper = row.printed.get(name) if value is None else value
        if name in own.values and isinstance(paper, int | float):
            miss = _miss(name, float(paper), own.values)
            found.append(Size(name=name, paper=paper, ours=own.values[name], miss=miss, note=row.macs_note))
    return found


def _stored(result: Mapping[str, Any]) -> dict[str, float]:
    """What the result says: MACs of convolutions and linear layers, parameters that are left.

    Papers count what is not zero, whether the rest was removed or only masked. Where each weight has more than one
    number (a mean and a deviation), weights are counted.
    """
    cost, budget = result["cost"], result.get("budget") or {}
    dense, final = cost["dense"], cost["final"]
    params, total = final["params"], dense["params"]
    if masked_share(final):
        params = final["nonzero_params"]
    if "weights_live" in budget:
        params, total = budget["weights_live"], budget["weights"]
    sparsity = 1 - params / total
    if "gated_params" in budget:
        sparsity = 1 - budget["kept_params"] / budget["gated_params"]
    if "gated_units" in budget:  # papers that count units, not weights
        sparsity = 1 - budget["kept_units"] / budget["gated_units"]
    return {
        **_macs(final["macs"], dense["macs"]),
        "flops": 2 * final["macs"],
        "dense_flops": 2 * dense["macs"],
        "params": params,
        "dense_params": dense["params"],
        "params_removed": 1 - params / total,
        "compression": total / max(1, params),
        "sparsity": sparsity,
    }


def _macs(final: float, dense: float) -> dict[str, float]:
    return {"macs": final, "dense_macs": dense, "macs_removed": 1 - final / dense, "macs_kept": final / dense}


def _converted(result: Mapping[str, Any], row: Row, folder: Path) -> dict[str, float]:
    """The counts from the channels that the run has kept, as the paper counts.

    Raises:
        UserError: the plan is not readable, or it does not lead to the net that was measured.
    """
    from prunebench.rows.counting import count, count_params, nominal_rates
    from prunebench.surgery.plan import Plan

    cost = result["cost"]
    data = result["dataset"]["settings"]
    shape = (1, int(data["in_channels"]), int(data["size"]), int(data["size"]))
    if not all(1 <= size <= MAX_SIDE for size in shape):
        raise UserError(f"{shape} is no shape of a picture")
    dense = _graph(json.dumps(result["model"]["settings"], sort_keys=True), shape)
    base = (cost.get("base") or {}).get("model")
    graph = _graph(json.dumps(base, sort_keys=True), shape) if base else dense
    plan = _plan(folder)
    if graph.macs(plan) != cost["final"]["macs"]:
        raise UserError("the channels that the run has kept do not explain its final net")
    rates = nominal_rates(result["method"]["settings"].get("prune_ratio"), graph, plan)
    whole = count(dense, Plan(), row.convention, {})
    if not whole:
        raise UserError("as the paper counts, the dense net costs nothing")
    found = _macs(count(graph, plan, row.convention, rates), whole)
    params, total = count_params(graph, plan, row.convention), count_params(dense, Plan(), row.convention)
    if params != cost["final"]["params"] or total != cost["dense"]["params"]:  # the paper leaves some out
        found |= {"params": params, "dense_params": total, "params_removed": 1 - params / total}
    return found


def _plan(folder: Path) -> Plan:
    """What a run has kept: beside its net, or beside its result in the open store."""
    from prunebench.nets.package import FOLDER, PLAN, plan_in

    found = next((path for path in (folder / FOLDER / PLAN, folder / PLAN) if path.exists()), None)
    if found is None:
        raise UserError("what the run has kept is not stored")
    return plan_in(found)


@lru_cache(maxsize=8)
def _graph(settings: str, shape: tuple[int, ...]) -> ChannelGraph:
    """Channels of the net that a result's settings describe: only prunebench's own code is called for it."""
    import torch

    from prunebench.nets.dense_net import make_net
    from prunebench.nets.spec import without_memory
    from prunebench.surgery.graph import ChannelGraph

    found = json.loads(settings)
    with without_memory():
        make_net(found, trust=False)
    return ChannelGraph.trace(make_net(found, trust=False).eval(), torch.zeros(shape))


def _miss(name: str, paper: float, own: Mapping[str, float]) -> float:
    """How far ours is away as a share of the dense net that is left, in multiples of what is allowed."""
    ends = interval(name, paper)  # the published value may have been anything that rounds to it
    if name.startswith("dense_"):
        return _distance(own[name], ends) / (TOLERANCE * paper)
    dense = own.get(f"dense_{name}", 1.0)
    low, high = sorted(_left(name, value, dense) for value in ends)
    allowed = max(min(TOLERANCE, KEPT_TOLERANCE * _left(name, paper, dense)), 1e-9)
    distance = _distance(_left(name, own[name], dense), (low, high))
    return distance / allowed if distance else 0.0


def _left(name: str, value: float, dense: float) -> float:
    """A size as the share of the dense net that is left."""
    if name == "compression":
        return 1 / max(value, 1e-9)
    return 1 - value if name in ("macs_removed", "params_removed", "sparsity") else value / dense


def _distance(value: float, ends: tuple[float, float]) -> float:
    return max(ends[0] - value, value - ends[1], 0.0)
