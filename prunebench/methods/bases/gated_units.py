"""Step gates into a net: the net with them, and the net without."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from prunebench.layers.step_gates import InputGates, StepGates, WeightGates, step_gates
from prunebench.methods.bases.single_readers import UnitPlace
from prunebench.surgery.replace import replace


def with_input_gates(net: nn.Module, places: Mapping[str, UnitPlace], *, rows: int, temperature: float) -> nn.Module:
    """A copy of ``net`` with :class:`InputGates` at all ``places``."""
    by_reader = {place.reader: place for place in places.values()}

    def gated(path: str, layer: nn.Module) -> nn.Module | None:
        place = by_reader.get(path)
        if place is None:
            return None
        return InputGates(layer, units=place.units, span=place.span, rows=rows, temperature=temperature)

    return replace(net, gated)


def with_weight_gates(net: nn.Module, names: Collection[str], *, rows: int, temperature: float) -> nn.Module:
    """A copy of ``net`` with :class:`WeightGates` on the layers ``names``."""
    return replace(
        net, lambda path, layer: WeightGates(layer, rows=rows, temperature=temperature) if path in names else None
    )


def without_gates(net: nn.Module) -> nn.Module:
    """A copy of ``net`` without gates: all of them are open."""
    return replace(net, lambda _, module: module.layer if isinstance(module, StepGates) else None)


def own_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a net but the scores of its gates, by the names that they have without gates."""
    gated = {f"{path}.layer.": f"{path}." for path in step_gates(net)}
    scores = {id(gate.score) for gate in step_gates(net).values()}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in net.named_parameters():
        if id(parameter) not in scores:
            prefix = next((inner for inner in gated if name.startswith(inner)), "")
            found[gated.get(prefix, "") + name.removeprefix(prefix)] = parameter
    return found


def rows_of(net: nn.Module) -> int:
    """How many sets of gates a net has; 1 without gates."""
    return next((len(gate.score) for gate in step_gates(net).values()), 1)


def each_row(net: nn.Module) -> Iterator[nn.Module]:
    """The net under each set of its gates in turn, and under the first one afterwards."""
    gates = step_gates(net).values()
    for row in range(rows_of(net)):
        for gate in gates:
            gate.row = row
        yield net
    for gate in gates:
        gate.row = 0


@torch.no_grad()
def open_one(scores: Tensor, *, at: float) -> None:
    """Lift the largest score of each row ``[rows, ...]`` to ``at`` where none is above 0, in place."""
    flat = scores.view(len(scores), -1)
    best = flat.max(1)
    closed = best.values <= 0
    flat[closed, best.indices[closed]] = at
