"""Residual branches: what an addition could do without because a shortcut bypasses it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prunebench.errors import UserError
from prunebench.surgery.behind import is_sum
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.plan import Plan
from prunebench.surgery.steps import PerChannel

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Branch:
    """The longer side of an addition.

    Attributes:
        block: path of the block, see :func:`block_of`.
        last: the convolution or linear layer at its end; without channels of it the branch is gone.
        end: the module at its end, ``last`` or the norm behind it.
    """

    block: str
    last: str
    end: str


def block_of(name: str, net: nn.Module) -> str:
    """Path of the innermost module around a layer that is no mere container; the layer itself if that is the net."""
    path = name.rpartition(".")[0]
    while path and isinstance(net.get_submodule(path), CONTAINERS):
        path = path.rpartition(".")[0]
    return path or name


def residual_branches(graph: ChannelGraph) -> list[Branch]:
    """The branches that can be removed alone, in the order of execution.

    Of the two sides of an addition the one with more layers since they parted is the branch, the other the shortcut,
    which may have a projection. Sides of equal length have no branch, and neither has a sum whose longer side does not
    end in a layer or a norm.
    """
    found = []
    for step in graph.steps:
        if not is_sum(step) or len(set(step.inputs)) != 2:
            continue
        sides = [_ancestors(graph, source) for source in step.inputs]
        lengths = [sum(isinstance(graph.steps[i], Mix) for i in side - other) for side, other in (sides, sides[::-1])]
        if lengths[0] == lengths[1]:
            continue
        branch = _branch(graph, step.inputs[0 if lengths[0] > lengths[1] else 1])
        if branch is not None:
            found.append(branch)
    return found


def _branch(graph: ChannelGraph, index: int) -> Branch | None:
    end = graph.steps[index]
    norm = isinstance(end, PerChannel) and end.is_norm
    last = graph.steps[end.inputs[0]] if norm else end
    read_once = all(sum(step.index in other.inputs for other in graph.steps) == 1 for step in (end, last))
    if not isinstance(last, Mix) or not read_once:
        return None
    try:
        graph.check(Plan(keep={last.module: ()}))
    except UserError:
        return None
    return Branch(block=block_of(last.module, graph.traced.net), last=last.module, end=end.module)


def _ancestors(graph: ChannelGraph, index: int) -> frozenset[int]:
    """The operation and all that it depends on."""
    found, waiting = set[int](), [index]
    while waiting:
        step = waiting.pop()
        if step not in found:
            found.add(step)
            waiting += graph.steps[step].inputs
    return frozenset(found)
