"""Functions that map 0 to another number, and what becomes of the constant channels behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from prunebench.surgery.composed import composed
from prunebench.surgery.gates import only_scales
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.names import RESHAPES, name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import Bits, full, positions
from prunebench.surgery.steps import Choice, Gate, Lifted, Reshape, Step, Through

_KEEPING = (nn.Flatten,)
_READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_lifted(context: Context, node: fx.Node) -> bool:
    """Whether a node is an elementwise function of a tensor that is not 0 where the tensor is, or is made of one."""
    root, value = composed(context, node)
    return root is not node and (
        value != 0 or any(isinstance(context.of(o), Lifted | Gate) for o in node.all_input_nodes)
    )


def lifted(context: Context, node: fx.Node) -> Step | None:
    """The step of such a function; None where it is not 0 and somebody reads it who cannot take the constant over."""
    tensor, (_, value) = node.all_input_nodes[0], composed(context, node)
    source = context.of(tensor)
    if source is None or source.axis is None:
        return None
    base: dict[str, Any] = {"index": context.index, "inputs": context.inputs(node, tensor), "axis": source.axis}
    base |= {"width": source.width, "span": source.span}
    base["module"] = str(node.target) if node.op == "call_module" else ""
    if value == 0:
        return Through(**base)
    if _can_move(context, node):
        return Lifted(**base, value=value)
    return Gate(**base) if source.width > 1 and only_scales(context, node) else None


def _can_move(context: Context, node: fx.Node) -> bool:
    """Whether only functions that make it 0 again read it, or layers with a bias, perhaps behind a flatten.

    A padded image has zeros beside constants.
    """
    root, value = composed(context, node)
    if not math.isfinite(value):
        return False
    for user in node.users:
        (other, end) = composed(context, user)
        if other is root:
            if end == 0 or _can_move(context, user):
                continue
            return False
        name = str(user.target)
        if user.op == "call_module" and name not in context.shared:
            module = context.net.get_submodule(name)
            if isinstance(module, _READERS) and module.bias is not None and not _pads(module):
                if isinstance(module, nn.Linear) or module.groups == 1:
                    continue
            elif isinstance(module, _KEEPING) and _can_move(context, user):
                continue
        elif name_of(user) in RESHAPES and user.args[0] is node and _can_move(context, user):
            continue
        return False
    return bool(node.users)


def _pads(module: nn.Module) -> bool:
    padding = getattr(module, "padding", 0)
    return padding != "valid" if isinstance(padding, str) else any(padding) if isinstance(padding, tuple) else False


@torch.no_grad()
def fold(net: nn.Module, steps: Sequence[Step], live: Sequence[Bits], choice: Choice) -> None:
    """Move the constants of dead channels behind lifted functions into the biases of their readers, in place.

    Args:
        net: dense shapes. ``steps``: of its graph. ``live``, ``choice``: the channels of each step's output under a
            plan, and the plan. A column that it does not select is 0, and takes no constant over.
    """
    for step in steps:
        if not isinstance(step, Mix):
            continue
        source = steps[step.inputs[0]]
        while isinstance(source, Reshape):
            source = steps[source.inputs[0]]
        if not isinstance(source, Lifted) or step.whole or step.complete:
            continue
        everything = full(step.in_width)
        if dead := everything & ~live[source.index]:
            layer = net.get_submodule(step.module)
            weight = layer.get_parameter("weight").flatten(2) if layer.get_parameter("weight").dim() > 2 else None
            taps = layer.get_parameter("weight") if weight is None else weight.sum(2)
            selected = choice.inputs.get(step.module)
            columns = [at for at in positions(dead, everything, step.in_span) if selected is None or selected >> at & 1]
            layer.get_parameter("bias").add_(source.value * taps[:, columns].sum(1))
