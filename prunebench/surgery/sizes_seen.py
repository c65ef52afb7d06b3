"""Values seen while a net is traced: how long a tuple is and how many dimensions a tensor has never depend on the data.

Symbolic tracing knows neither, so that ``(*x.shape[:-1], -1)`` or ``if x.dim() == 3`` would end it.
"""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _maybe_revert_all_patches
from torch.fx.node import map_arg


class Seen:
    """Runs the operations that have been written down so far, when somebody asks.

    Args:
        net: that is traced, stays as it is.
        inputs: ``[batch, ...]``, two samples or more.

    Attributes:
        alone: conditions that hold for several samples and not for one, or the other way round.
    """

    def __init__(self, net: nn.Module, inputs: Tensor) -> None:
        self._traced = net  # gets the tensors that its forward pass makes
        parameters = {id(parameter): parameter for parameter in net.parameters()}
        self._net = copy.deepcopy(net, parameters).eval()  # buffers of its own
        self._inputs = inputs
        self._values: dict[fx.Node, Any] = {}
        self._others: list[Seen] = []
        self.alone: dict[fx.Node, None] = {}  # in the order of the forward pass

    def length(self, node: fx.Node) -> int | None:
        """Of a tuple, a list or a shape; None for anything else: the length of a tensor may be the batch."""
        value = self._value(node)
        return len(value) if isinstance(value, tuple | list) else None

    def truth(self, node: fx.Node) -> bool | None:
        """Of a condition on sizes or types, or of a size; None for anything else, and where it depends on the number of
        samples.

        If it is only another one for a single sample, as where something is repeated for each sample, it is noted.
        """
        value: object = self._value(node)
        if not isinstance(value, int):
            return None
        holds = bool(value)
        values = (other._value(node) for other in self._of_other_lengths())
        one, three = (None if other is None else bool(other) for other in values)
        if one is not holds and three is holds:
            self.alone[node] = None
            return holds
        return holds if one is holds else None

    def _of_other_lengths(self) -> list[Seen]:
        """The same for one sample, and for one more."""
        if not self._others:
            more = torch.cat((self._inputs, self._inputs[:1]))
            self._others = [Seen(self._traced, inputs) for inputs in (self._inputs[:1], more)]
        return self._others

    def is_of_type(self, node: fx.Node) -> bool:
        """Whether a condition compares types of numbers: the branch is that of the type that the net was traced in."""
        return any(isinstance(self._value(other), torch.dtype) for other in node.all_input_nodes)

    def num_dims(self, node: fx.Node) -> int | None:
        """Of a tensor."""
        value = self._value(node)
        return value.dim() if isinstance(value, Tensor) else None

    def _value(self, wanted: fx.Node) -> Any:
        # tracing has its own idea of what calling a module is, and switches autocast
        plain = torch.autocast(self._inputs.device.type, enabled=False)
        with _maybe_revert_all_patches(), torch.random.fork_rng(), torch.no_grad(), plain:
            for node in wanted.graph.nodes:
                if node not in self._values:
                    try:
                        self._values[node] = self._run(node)
                    except Exception:  # whatever the net's own operation raises is told when the graph is run
                        return None
                if node is wanted:
                    break
        return self._values[wanted]

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._inputs.clone()
        if node.op == "get_attr":
            found = attrgetter(str(node.target))
            try:
                return found(self._net)
            except AttributeError:  # the forward pass has made it since
                return found(self._traced).clone()
        args: Any = map_arg(node.args, self._values.__getitem__)
        kwargs: Any = map_arg(node.kwargs, self._values.__getitem__)
        if node.op == "call_module":
            return self._net.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
