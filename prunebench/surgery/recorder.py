"""One run of a traced graph in evaluation mode, and what each operation did in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from prunebench.errors import UserError, first_line
from prunebench.surgery.counter import Counter, plain_attention
from prunebench.surgery.places import describe, owner
from prunebench.surgery.tracer import CannotFollow
from prunebench.surgery.weak_numbers import Numbers

SEED = 0

Place = tuple[int, int]
"""Number of a tensor's memory, and of the tensor itself; see :class:`prunebench.surgery.weak_numbers.Numbers`."""


@dataclass
class Recording:
    """What was seen.

    Attributes:
        values: what each node returned; tensors without data.
        macs: multiply-accumulates of each node for one sample.
        places: of the tensors that each node returned.
        writes: memory that each node has written into.
        random: the nodes that have drawn random numbers, in order.
        state: memory of parameters, buffers and constants.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    macs: dict[fx.Node, int] = field(default_factory=dict)
    places: dict[fx.Node, list[Place]] = field(default_factory=dict)
    writes: dict[fx.Node, set[int]] = field(default_factory=dict)
    random: list[fx.Node] = field(default_factory=list)
    state: set[int] = field(default_factory=set)
    output: Any = None


class Recorder(fx.Interpreter):
    """Runs each node and looks at it.

    Args:
        net: in evaluation mode.
        inputs: ``[batch, ...]``.
    """

    def __init__(self, net: fx.GraphModule, inputs: Tensor) -> None:
        super().__init__(net)
        self.extra_traceback = False  # it would write the graph and the stack into our sentence
        self._net, self._batch = net, len(inputs)
        self._seen = Recording()
        self._numbers = Numbers()
        self._seen.state = {self._numbers.memory(tensor) for tensor in (*net.parameters(), *net.buffers())}

    def record(self, inputs: Tensor) -> Recording:
        """Run once.

        Raises:
            CannotFollow: the forward pass fails for these inputs; names file and line.
        """
        inputs = inputs.clone()
        self._counter = Counter(self.module, inputs)
        with torch.random.fork_rng(), torch.no_grad(), plain_attention(), self._counter:
            torch.manual_seed(SEED)
            self._seen.output = self.run(inputs)
        if self._counter.has_fixed and self._batch > 1:
            self._seen.macs = Recorder(self._net, inputs[:1]).record(inputs[:1]).macs
        self._seen.output = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self._seen.output)
        return self._seen

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        read = tensors([self.env[source] for source in n.all_input_nodes])
        versions, state, macs = [tensor._version for tensor in read], torch.get_rng_state(), self._counter.macs
        try:
            value = super().run_node(n)
        except UserError:
            raise
        except Exception as error:
            place = f"{describe(n, self.module)} for {self._batch} samples"
            text = f"the forward pass failed in {place}: {first_line(error)}"
            raise CannotFollow(text, owner(n)) from error
        seen, numbers = self._seen, self._numbers
        seen.values[n] = tree_map(_without_data, value)
        seen.macs[n] = (self._counter.macs - macs) // self._batch
        seen.places[n] = [(numbers.memory(tensor), numbers.tensor(tensor)) for tensor in tensors(value)]
        seen.writes[n] = {numbers.memory(t) for t, before in zip(read, versions, strict=True) if t._version != before}
        if not torch.equal(state, torch.get_rng_state()):
            seen.random.append(n)
        return value


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in a nest of lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _without_data(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf
