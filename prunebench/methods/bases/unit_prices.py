"""What a gated unit costs: the same for all of a layer, or its share of the net's MACs and parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from prunebench.core.method import match_layers
from prunebench.errors import UserError
from prunebench.layers.bernoulli_gates import BernoulliInputs
from prunebench.measure.soft_macs import SoftMacs
from prunebench.surgery.graph import ChannelGraph

Gates = Mapping[str, BernoulliInputs]
"""Layer -> the gates of its units."""


class Price(ABC):
    """A price of all units together, affine in each theta.

    Args:
        units: layer -> units in the dense net.
    """

    def __init__(self, units: Mapping[str, int]) -> None:
        self._units = dict(units)

    @abstractmethod
    def of(self, thetas: Mapping[str, Tensor]) -> Tensor:
        """The price in nats per example, a scalar.

        Args:
            thetas: layer -> ``[units]`` of the dense net, 0 for those that are gone.
        """

    def __call__(self, gates: Gates) -> Tensor:
        """The price of the units that are left, float32."""
        return self.of({name: gate.shares() for name, gate in gates.items()}).float()

    def mean(self, theta: float) -> float:
        """Mean over the units of the derivative by theta in the dense net, where all are ``theta``."""
        given = {name: torch.full((units,), theta, requires_grad=True) for name, units in self._units.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(self.of(given), list(given.values()))
        return float(torch.cat(found).double().mean())


class FlatPrice(Price):
    """A constant for each unit: log gamma / N under the flattening hyper-prior.

    Args:
        prices: layer -> nats per example and unit.
        units: layer -> units.
    """

    def __init__(self, prices: Mapping[str, float], units: Mapping[str, int]) -> None:
        super().__init__(units)
        self._prices = dict(prices)

    def of(self, thetas: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._prices[name] * theta.sum() for name, theta in thetas.items()]).sum()


class ComplexityPrice(Price):
    """``weight * (a E[MACs] / MACs + (1 - a) E[params] / params)`` under q, exact as the gates are independent.

    Args:
        graph: of the dense net.
        units: layer -> units.
        weight: nu, nats per example.
        macs_share: a.
    """

    def __init__(self, graph: ChannelGraph, units: Mapping[str, int], *, weight: float, macs_share: float) -> None:
        super().__init__(units)
        self._sizes, self._weight, self._macs_share = SoftMacs(graph), weight, macs_share
        self._macs, self._params = graph.dense_macs, graph.dense_params

    def of(self, thetas: Mapping[str, Tensor]) -> Tensor:
        macs, params = self._sizes(thetas) / self._macs, self._sizes.params(thetas) / self._params
        return self._weight * (self._macs_share * macs + (1 - self._macs_share) * params)


def per_layer(value: float | Mapping[str, float], names: Collection[str], *, what: str) -> dict[str, float]:
    """Layer -> its value, of one for all or of a table by names and globs, of which later ones win.

    Raises:
        UserError: a pattern matches no layer, or a layer has no value; ``what`` is the option.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, float(value))
    found: dict[str, float] = {}
    for pattern, own in value.items():
        found |= dict.fromkeys(match_layers([pattern], names, what=what), float(own))
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{what} names no value for {', '.join(missing)}; add '*' for all others")
    return found
