"""Units with Bernoulli gates: the net with them, and the net without the units that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.layers.bernoulli_gates import BernoulliInputs, bernoulli_gates
from prunebench.methods.bases.single_readers import UnitPlace
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.narrow import Narrowed, narrow, narrow_parameter, resize_parameter, take_shapes
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace


class GatedUnits:
    """The gates of a net: put in, found, and followed when units go.

    Args:
        places: of :func:`~prunebench.methods.bases.single_readers.unit_places`.
        graph: of the dense net.
    """

    def __init__(self, places: Mapping[str, UnitPlace], graph: ChannelGraph) -> None:
        self.places = dict(places)
        self._graph = graph

    def gated(self, net: nn.Module, *, start: float, per_example: bool) -> nn.Module:
        """A copy of ``net`` (dense shapes) with gates; it takes a checkpoint of any of its later shapes."""
        by_reader = {place.reader: place for place in self.places.values()}

        def around(path: str, module: nn.Module) -> nn.Module | None:
            at = by_reader.get(path)
            if at is None:
                return None
            return BernoulliInputs(module, units=at.units, span=at.span, start=start, per_example=per_example)

        net = replace(net, around)

        # a function of its own and no method: a copy of the net must not copy the graph
        def make_room(
            module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any, units: GatedUnits = self
        ) -> None:
            units.take_shapes(module, {name: state[f"{prefix}{place.reader}.alive"] for name, place in units.items()})

        net.register_load_state_dict_pre_hook(make_room)
        return net

    def items(self) -> list[tuple[str, UnitPlace]]:
        """Layer and place of each."""
        return list(self.places.items())

    def of(self, net: nn.Module) -> dict[str, BernoulliInputs]:
        """Layer whose units are gated -> the gates; none in a net without."""
        found = bernoulli_gates(net)
        return {name: found[place.reader] for name, place in self.places.items()} if found else {}

    def plan(self, net: nn.Module) -> Plan:
        """The units that are left, of layers that have lost some."""
        return _plan({name: gate.alive for name, gate in self.of(net).items()})

    def remove(self, net: nn.Module, keep: Mapping[str, Tensor]) -> list[Narrowed]:
        """Remove units in place, with the weights that write and read them.

        Args:
            keep: layer -> bool ``[units that are left]``: which stay.
        """
        before = self.plan(net)
        found: list[Narrowed] = []
        for name, gate in self.of(net).items():
            if bool(keep[name].all()):
                continue
            places = keep[name].nonzero().flatten()
            gate.alive[gate.alive.nonzero().flatten()[~keep[name]]] = False
            gate.low = gate.low[places]
            found.append(narrow_parameter(gate.theta, places.tolist()))
        return found + narrow(_finder(net), self._graph, before=before, after=self.plan(net)) if found else []

    def take_shapes(self, net: nn.Module, alive: Mapping[str, Tensor]) -> None:
        """Give a gated net the shapes of one whose ``alive`` units, bool ``[units]`` of each layer, are left."""
        for name, gate in self.of(net).items():
            left = int(alive[name].sum())
            if left != len(gate.theta):
                resize_parameter(gate.theta, (left,))
                gate.low = gate.low.new_zeros(left)
        take_shapes(_finder(net), self._graph, _plan(alive))


def without_gates(net: nn.Module) -> nn.Module:
    """A copy of ``net`` without gates."""
    return replace(net, lambda _, module: module.layer if isinstance(module, BernoulliInputs) else None)


def _plan(alive: Mapping[str, Tensor]) -> Plan:
    return Plan(keep={name: tuple(torch.nonzero(left).flatten().tolist()) for name, left in alive.items()
                      if not bool(left.all())})  # fmt: skip


def _finder(net: nn.Module) -> Any:
    def find(path: str) -> nn.Module:
        module = net.get_submodule(path)
        return module.layer if isinstance(module, BernoulliInputs) else module

    return find
