"""Gates: outputs of a layer that only scale other channels, as in squeeze and excitation, follow those channels.

Where a channel is gone its gate is not needed, whatever it would be: the gate's layer loses the row too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from prunebench.surgery.composed import composed
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.names import RESHAPES, SIZES, name_of
from prunebench.surgery.rule_context import Context
from prunebench.surgery.steps import Expanded, Gate, Multiply, Size, Source, Step, Through


def only_scales(context: Context, node: fx.Node) -> bool:
    """Whether a tensor is read by nothing but products with tensors that are not made of the same one."""
    root = composed(context, node)[0]
    return bool(node.users) and all(_scales(context, node, user, root) for user in node.users)


def _scales(context: Context, node: fx.Node, user: fx.Node, root: fx.Node) -> bool:
    own, found = context.shape(node), context.shape(user)
    if found is None:
        return name_of(user) in SIZES
    assert own is not None
    if composed(context, user)[0] is root:  # a further function of it, hard sigmoids by hand
        return only_scales(context, user)
    if name_of(user) == "mul":
        others = [other for other in user.args if other is not node]
        return len(others) == 1 and isinstance(others[0], fx.Node) and context.shape(others[0]) == found
    reshaped = name_of(user) in RESHAPES and own[:2] == found[:2]
    return (reshaped or name_of(user) == "expand_as") and user.args[0] is node and only_scales(context, user)


def following(steps: Sequence[Step]) -> list[Step]:
    """The steps, of which each layer that only writes the gate of earlier channels follows those."""
    found = list(steps)
    readers: list[list[Step]] = [[] for _ in steps]
    for step in steps:
        for source in step.inputs:
            readers[source].append(step)
    for step in steps:
        if isinstance(step, Multiply) and step.gate is not None:
            scaled, layer = step.inputs[1 - step.gate], _only_writer(steps, readers, step.inputs[step.gate])
            if layer is not None and scaled < layer.index and not step.whole[1 - step.gate]:
                found[layer.index] = replace(layer, follows=scaled)
    return found


def _only_writer(steps: Sequence[Step], readers: Sequence[Sequence[Step]], index: int) -> Mix | None:
    """The layer whose channels these are, if nothing else reads them on the way."""
    step = steps[index]
    while sum(not _reads_sizes(reader, readers) for reader in readers[step.index]) == 1:
        if isinstance(step, Mix):
            return step
        if not isinstance(step, Through | Expanded) or step.axis is None or step.span > 1:
            return None
        step = steps[step.inputs[0]]
    return None


def _reads_sizes(step: Step, readers: Sequence[Sequence[Step]]) -> bool:
    """Whether a step reads single sizes of a tensor and nothing else of it."""
    if isinstance(step, Size):
        return all(_reads_sizes(reader, readers) for reader in readers[step.index])
    return isinstance(step, Source)


def is_gate(steps: Sequence[Step], index: int) -> bool:
    """Whether a step's output is a gate, perhaps reshaped or repeated."""
    step = steps[index]
    while isinstance(step, Through | Expanded) and not isinstance(step, Gate):
        step = steps[step.inputs[0]]
    return isinstance(step, Gate)
