"""A plan carried out by zeroing, and the way back from the small net to the dense shapes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.channel_tensors import dead_value
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.resize import Slice, check_net, places, slices


def zero(net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of the net in which every dead channel is exactly 0, in both modes.

    Zeroed are the filter, its bias, the affine part and the running mean of the norms that read it (a norm would emit
    its bias otherwise; the running variance becomes 1), and the weights of inputs that the plan does not select.

    Args:
        net: the dense net.
        graph: of that net.
        plan: what stays.

    Raises:
        UserError: the plan cannot be carried out, or the net is not the one that was traced.
    """
    parts = slices(graph, plan)
    check_net(net, graph, parts)
    net = copy.deepcopy(net)
    with torch.no_grad():
        for part in parts:
            for name, tensor in part.tensors(net.get_submodule(part.step.module)):
                rows = part.rows_dim(name, tensor)
                _fill(name, tensor, dim=rows, kept=part.rows)
                if part.selected is not None and tensor.dim() > 1:
                    _fill(name, tensor, dim=1 - rows, kept=part.selected)
    return net


def restore(net: nn.Module, graph: ChannelGraph, plan: Plan, compact: nn.Module) -> nn.Module:
    """A copy of the dense net with the weights and buffers of the small one written back in place.

    What the plan removed is zero, so the output equals that of ``compact``.

    Args:
        net: the dense net; says where, not what.
        graph: of that net.
        plan: the one that ``compact`` was made with.
        compact: what :func:`prunebench.surgery.shrink.shrink` returned, perhaps trained since.

    Raises:
        UserError: as :func:`zero`, or ``compact`` was not made with this plan.
    """
    parts = slices(graph, plan)
    check_net(net, graph, parts)
    net = copy.deepcopy(net)
    known = dict(compact.named_modules())
    with torch.no_grad():
        for part in parts:
            name = part.step.module
            _write_back(part, net.get_submodule(name), known.get(name))
        _copy_rest(net, compact, {part.step.module for part in parts})
    return net


def _fill(name: str, tensor: Tensor, *, dim: int, kept: list[int]) -> None:
    """Make everything outside of ``kept`` dead."""
    dead = torch.ones(tensor.shape[dim], dtype=torch.bool)
    dead[kept] = False
    if dead.any():
        tensor.index_fill_(dim, dead.nonzero().flatten().to(tensor.device), dead_value(name))


def _write_back(part: Slice, module: nn.Module, small: nn.Module | None) -> None:
    if (small is None) != (not part.rows):
        raise UserError(_wrong(part, "lacks" if small is None else "has"))
    values = dict(part.tensors(small)) if small is not None else {}
    for name, tensor in part.tensors(module):
        _fill(name, tensor, dim=0, kept=[])
        if small is None:
            continue
        value = values[name].to(tensor)
        if tuple(value.shape) != part.sizes(name, tensor):
            raise UserError(_wrong(part, f"has {name} of shape {tuple(value.shape)} in"))
        tensor[places(part.kept(name, tensor), tensor.device)] = value


def _wrong(part: Slice, what: str) -> str:
    return (
        f"the small net {what} layer '{part.step.module}', of which the plan keeps {len(part.rows)} channels; "
        "pass the plan that it was made with"
    )


def _copy_rest(net: nn.Module, compact: nn.Module, done: set[str]) -> None:
    """Everything that is not cut by rows: whole layers, free parameters, counters of batches."""
    state = net.state_dict()
    for name, value in compact.state_dict().items():
        if name.rpartition(".")[0] not in done or value.dim() == 0:
            state[name].copy_(value)
