"""A dense net that a run can build, and what follows from its settings alone: shapes, channels, cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from prunebench.config import named
from prunebench.errors import UserError
from prunebench.layers.own_weight import check_copies
from prunebench.measure import cost
from prunebench.nets.opened import opened
from prunebench.surgery.graph import ChannelGraph

Make = Callable[[Mapping[str, Any], str], nn.Module]
"""(settings of the config group ``model``, purpose) -> the net with weights that depend on both and the seed."""


def make_net(settings: Mapping[str, Any], *, trust: bool = True) -> nn.Module:
    """The net of the config group ``model`` with new random weights, see :func:`prunebench.config.named.build`.

    Its attention layers are made of linear layers, see :func:`prunebench.nets.opened.opened`.
    """
    net = named.build("model", settings, expects=nn.Module, trust=trust)
    check_copies(net)
    return opened(net)


class DenseNet:
    """How to build a net.

    Args:
        settings: of the config group ``model``: ``_target_``, its arguments, ``name``.
        make: builds the net.
        example: one input, ``[1, ...]``.
        samples: how many samples that input holds, see ``measure.cost.count``.
    """

    def __init__(self, settings: Mapping[str, Any], *, make: Make, example: Tensor, samples: int = 1) -> None:
        self.settings = dict(settings)
        self._make = make
        self.example = example
        self.samples = samples
        self._variants: dict[str, DenseNet] = {}

    def fresh(self, purpose: str) -> nn.Module:
        """The net with new random weights: a function of (seed, purpose)."""
        return self._make(self.settings, purpose)

    @cached_property
    def template(self) -> nn.Module:
        """An untrained net in evaluation mode, for shapes and counts."""
        return self.fresh("template").eval()

    @cached_property
    def graph(self) -> ChannelGraph:
        """Its channels."""
        return ChannelGraph.trace(self.template, self.example)

    @property
    def made_graph(self) -> ChannelGraph | None:
        """Its channels if somebody has asked for them: there are nets that nobody can follow and no method has to."""
        return vars(self).get("graph")

    @cached_property
    def cost(self) -> cost.Cost:
        """Of the whole net."""
        return cost.count(self.template, self.example, samples=self.samples)

    def argument(self, name: str) -> Any:
        """The value of an argument: the setting, or the target's default.

        Raises:
            UserError: the target takes no such argument, or has no default for it.
        """
        if name in self.settings:
            return self.settings[name]
        taken = inspect.signature(named.find(self.settings["_target_"], what="model")).parameters
        if name not in taken or taken[name].default is inspect.Parameter.empty:
            raise UserError(
                f"{self.settings['_target_']}, which builds the net, has no argument '{name}' with a default; "
                f"it takes: {', '.join(taken)}"
            )
        return taken[name].default

    def variant(self, **arguments: Any) -> DenseNet:
        """The description with some arguments changed; the same object for the same arguments."""
        key = repr(sorted(arguments.items()))
        if key not in self._variants:
            settings = {**self.settings, **arguments}
            self._variants[key] = DenseNet(settings, make=self._make, example=self.example, samples=self.samples)
        return self._variants[key]
