"""A plan carried out by removal: a smaller net."""

from __future__ import annotations

import copy

from torch import fx, nn

from prunebench.layers.wide import WIDE, widened
from prunebench.surgery.align import align
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Grouped
from prunebench.surgery.lifts import fold
from prunebench.surgery.narrow_form import narrow_form
from prunebench.surgery.plan import Plan
from prunebench.surgery.resize import Slice, check_net, cut, slices
from prunebench.surgery.unread import keep_unread
from prunebench.surgery.writer import write


def shrink(net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A smaller net whose output equals that of ``zero(net, graph, plan)``.

    The layers keep their names and lose what is dead; the keys and shapes of the state dict follow from net and plan
    alone. Behind a function that maps 0 to another number, a dead channel is a constant, which goes into the biases of
    its readers. Where the live channels of an addition differ, a :class:`ScatterAdd` takes its place, or the layers
    that write them compute in the width of their union, whichever is faster where the net runs
    (see :mod:`prunebench.layers.wide`). With equal sets nothing is added. It takes any batch size and image size that
    the dense net takes, and both modes.

    Args:
        net: the dense net, which stays as it is.
        graph: of that net.
        plan: what stays.

    Returns:
        A ``torch.fx.GraphModule``: it can be copied, pickled, trained and exported.

    Raises:
        UserError: the plan cannot be carried out, or the net is not the one that was traced.
    """
    parts = slices(graph, plan)
    check_net(net, graph, parts)
    root = copy.deepcopy(net)
    fold(root, graph.steps, *graph.live(plan))
    shape, wide = _shape(root, graph, plan, parts)
    narrow = narrow_form(graph, plan, shape) if shape != plan else {}
    for part, around in zip(parts, wide, strict=True):
        if part.rows:
            name = part.step.module
            cut(root.get_submodule(name), part)
            if around is not part:
                columns = None if part.columns is None else (part.columns, around.columns or [])
                layer, takes_few = root.get_submodule(name), part.step.index in narrow
                layer = widened(layer, rows=(part.rows, around.rows), columns=columns, narrow=takes_few)
                root.set_submodule(name, layer)
    small = fx.GraphModule(root, write(root, graph, shape, narrow), class_name=type(net).__name__)
    keep_unread(small, root, graph.unread)
    modes = {name: module.training for name, module in net.named_modules()}
    for name, module in small.named_modules():
        module.training = modes.get(name, modes.get(name.rpartition(".")[0], net.training))
    return small


def _shape(net: nn.Module, graph: ChannelGraph, plan: Plan, parts: list[Slice]) -> tuple[Plan, list[Slice]]:
    """The plan whose tensors the small net computes in, and its slices: aligned where all layers concerned allow it."""
    shape = align(graph, plan)
    wide = slices(graph, shape)
    pairs = [
        (part, around if _sizes(part) != _sizes(around) else part) for part, around in zip(parts, wide, strict=True)
    ]
    changed = [part for part, around in pairs if part is not around]
    if all(part.rows and _has_wide_form(part, net) for part in changed):
        return shape, [around for _, around in pairs]
    return plan, parts


def _has_wide_form(part: Slice, net: nn.Module) -> bool:
    return type(net.get_submodule(part.step.module)) in WIDE and not isinstance(part.step, Depthwise | Grouped)


def _sizes(part: Slice) -> tuple[int, int | None]:
    return len(part.rows), part.num_columns
