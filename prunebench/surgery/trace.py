"""From a net to a graph of operations with the shape that each of them has: the same function, or an error."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunebench.errors import UserError
from prunebench.layers.own_weight import check_copies
from prunebench.surgery import channel_modules, norm_forms, sample_drops, writes
from prunebench.surgery.channel_modules import Layout
from prunebench.surgery.effects import check_gradient_hooks, check_not_compiled, check_parameters_stay
from prunebench.surgery.equality import random_inputs
from prunebench.surgery.faithful import check_evaluation, check_one_sample, check_training, differing_weights, twin
from prunebench.surgery.modes import check_modes, switched_dropouts
from prunebench.surgery.plain_forms import simplify
from prunebench.surgery.recorder import Recorder, Recording
from prunebench.surgery.tracer import CannotFollow, require, symbolic
from prunebench.surgery.writes import Memory

__all__ = ["Traced", "trace"]

_BATCH = 2  # a batch of one would hide a reshape that mixes samples


@dataclass(frozen=True)
class Known:
    """Paths of the modules of unknown classes that were found, by trying them out, to be one operation of a known kind.

    Attributes:
        norms: batch norms with parts, see :mod:`prunebench.surgery.norm_forms`.
        drops: stochastic depth, see :mod:`prunebench.surgery.sample_drops`.
        channelwise: with the layouts that they take, see :mod:`prunebench.surgery.channel_modules`.
    """

    norms: frozenset[str]
    drops: frozenset[str]
    channelwise: Mapping[str, frozenset[Layout]]

    @classmethod
    def of(cls, net: nn.Module) -> Known:
        """Those of a net, which stays as it is."""
        norms = norm_forms.norms_with_parts(net)
        channelwise = channel_modules.channel_modules(net)
        others = {path: layouts for path, layouts in channelwise.items() if path not in norms}
        return cls(norms, sample_drops.sample_drops(net), others)

    @property
    def paths(self) -> frozenset[str]:
        """All of them."""
        return self.norms.union(self.drops, self.channelwise)

    def without(self, paths: Collection[str]) -> Known:
        """The others."""
        channelwise = {path: layouts for path, layouts in self.channelwise.items() if path not in paths}
        return Known(self.norms.difference(paths), self.drops.difference(paths), channelwise)

    def mistaken(self, net: nn.Module, traced: Traced) -> frozenset[str]:
        """Those that do something else with tensors of the shapes that they get in the net."""
        found: set[str] = set()
        tried: set[tuple[int, torch.Size]] = set()
        for node in traced.graph.nodes:
            path, source = str(node.target), node.args[0] if node.args else None
            value = traced.values[source] if isinstance(source, fx.Node) else None
            if node.op != "call_module" or path not in self.paths or not isinstance(value, Tensor):
                continue
            module = net.get_submodule(path)
            if (id(module), value.shape) not in tried and not self._holds_at(path, module, value.shape):
                found.add(path)
            tried.add((id(module), value.shape))
        return frozenset(found)

    def _holds_at(self, path: str, module: nn.Module, shape: torch.Size) -> bool:
        if path in self.norms:
            return norm_forms.holds_at(module, shape)
        if path in self.drops:
            return sample_drops.holds_at(module, shape)
        return channel_modules.holds_at(module, shape, self.channelwise[path])


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A net as a list of operations. Each writes a tensor of its own: who reads after a write reads the writer.

    Attributes:
        graph: of ``torch.fx``, without dead code.
        values: what each node returns: a tensor without data (its shape for two samples), a number, a tuple.
        macs: multiply-accumulates of each node for one sample.
        memory: which nodes share memory, and which write into it.
        dropouts: the dropout functions that follow the net's mode.
        constants: path -> tensor that is read but not stored: made by the forward pass, or no persistent buffer.
        leaves: path of a module that could not be followed and is one operation -> why.
        known: paths of modules of unknown classes that are one operation of a known kind.
        net: a copy of the net in evaluation mode.
    """

    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    macs: Mapping[fx.Node, int]
    memory: Memory
    dropouts: frozenset[fx.Node]
    constants: Mapping[str, Tensor]
    leaves: Mapping[str, str] = field(default_factory=dict)
    known: Known
    net: nn.Module


def trace(net: nn.Module, example: Tensor) -> Traced:
    """Follow one input through the net, which stays as it is, and compare the graph with the net in both modes.

    A module whose forward cannot be followed (it depends on the data or the mode, or switches gradients or autocast) is
    taken as one operation; what the net's own forward does of the kind is refused.

    Args:
        net: takes one tensor.
        example: ``[batch, ...]``; only the shape of one sample, the type and the device matter.

    Raises:
        UserError: the forward pass cannot be written as a graph that computes the same; names file and line.
    """
    check_copies(net)
    check_not_compiled(net)
    check_gradient_hooks(net)
    leaves: dict[str, str] = {}
    known = Known.of(net)
    while True:
        try:
            traced = _trace(copy.deepcopy(net), random_inputs(example, number=_BATCH), leaves, known)
            if not (mistaken := known.mistaken(net, traced)):
                return traced
            known = known.without(mistaken)
        except CannotFollow as problem:
            if not problem.module:
                raise UserError("; ".join(filter(None, (str(problem), problem.advice)))) from problem
            leaves[problem.module] = str(problem)


def _trace(net: nn.Module, inputs: Tensor, leaves: Mapping[str, str], known: Known) -> Traced:
    untouched = copy.deepcopy(net)
    differing_weights(net)
    stored = set(net.state_dict())
    # tracing adds to a net what its forward pass makes, and running it moves buffers; parameters are shared
    original, evaluated, trained = (twin(net, own=leaves) for _ in range(3))
    single = known.paths.union(leaves)
    training, alone = symbolic(trained, inputs, single, training=True)
    graph, _ = symbolic(net, inputs, single, training=False)
    check_modes(training, graph)
    dropouts = switched_dropouts(training, graph)
    simplify(graph)
    followed = fx.GraphModule(twin(net, own=leaves), graph)
    record = Recorder(followed, inputs).record(inputs)
    writes.settle(graph, record)  # refuses what writes into parameters
    check_evaluation(evaluated, record, inputs)
    if alone:
        check_one_sample(evaluated, followed, inputs[:1], where=alone[0])
    check_training(original, fx.GraphModule(trained, training), inputs)
    check_parameters_stay(untouched, inputs, apart=single)
    _drop_unused(graph, record, net)
    attributes = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return Traced(
        graph=graph,
        values={node: record.values[node] for node in graph.nodes},
        macs={node: record.macs[node] for node in graph.nodes},
        memory=Memory(graph, record),
        dropouts=dropouts,
        constants={name: attrgetter(name)(net) for name in attributes - stored},
        leaves=leaves,
        known=known,
        net=net,
    )


def _drop_unused(graph: fx.Graph, record: Recording, net: nn.Module) -> None:
    """Leave out what nobody reads and costs nothing; an unused layer is run and counted, as the net does."""
    for node in reversed(list(graph.nodes)):
        has_state = node.op == "call_module" and bool(net.get_submodule(str(node.target)).state_dict())
        if (
            not node.users
            and node.target is not require
            and node.op not in ("placeholder", "output")
            and not has_state
            and not record.macs[node]
        ):
            graph.erase_node(node)
