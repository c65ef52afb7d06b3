"""Functions that map 0 to another number, and what becomes of the constant channels behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from prunebench.surgery.names import RESHAPES, name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import Bits, full, positions
from prunebench.surgery.steps import Lifted, Mix, Reshape, Step

_KEEPING = (nn.Flatten, nn.Identity)
_READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lifted(context: Context, node: fx.Node, value: float) -> Step | None:
    """The step of an elementwise function of ``value`` at 0; None where somebody reads it who cannot take it over."""
    return context.through(node, Lifted, value=value) if _can_move(context, node) else None


def _can_move(context: Context, node: fx.Node) -> bool:
    """Whether only layers with a bias read it, perhaps behind a flatten; a padded image has zeros beside constants."""
    for user in node.users:
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
def fold(net: nn.Module, steps: Sequence[Step], live: Sequence[Bits]) -> None:
    """Move the constants of dead channels behind lifted functions into the biases of their readers, in place.

    Args:
        net: dense shapes. ``steps``: of its graph. ``live``: channels of each step's output under a plan.
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
            columns = positions(dead, everything, step.in_span)
            layer.get_parameter("bias").add_(source.value * taps[:, columns].sum(1))
