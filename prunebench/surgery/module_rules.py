"""The rules for modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from prunebench.surgery import functions, head_rules
from prunebench.surgery.families import (
    ACTIVATIONS,
    BORDERS,
    CONVOLUTIONS,
    COPIES,
    LIFTS,
    LINEAR,
    NORMS,
    POOLS,
    TRANSPOSED,
)
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.lifts import is_lifted, lifted
from prunebench.surgery.rule_context import Context
from prunebench.surgery.sets import full
from prunebench.surgery.steps import PerChannel, Step

Rule = Callable[[Context, fx.Node, Any], Step | None]


def step(context: Context, node: fx.Node) -> Step | None:
    """The step of a module; None where its input must be complete."""
    name = str(node.target)
    module = context.net.get_submodule(name)
    if name in context.shared or not node.args or not _reads_one(context, node, module):
        return None
    if name in context.traced.known.paths and (len(node.args) > 1 or node.kwargs):  # it was tried out with one tensor
        return None
    if is_lifted(context, node):
        return lifted(context, node)
    for types, rule in _RULES:
        if isinstance(module, types) and (name in context.traced.known.norms or _inherits(module, types)):
            return rule(context, node, module)
    dims = context.num_spatial(node)
    if dims is not None and isinstance(module, (*POOLS.get(dims, ()), *BORDERS.get(dims, ()))):
        return context.through(node, module=name)
    spreads = isinstance(module, nn.Upsample) and dims is not None
    if spreads or name in context.traced.known.drops:
        return context.through(node, module=name)
    return _channelwise(context, node, module) if name in context.traced.known.channelwise else None


def _reads_one(context: Context, node: fx.Node, module: nn.Module) -> bool:
    """Whether one tensor goes in; sizes may come along that say how large a transposed convolution's output is."""
    others = [context.traced.values[other] for other in node.all_input_nodes[1:]]
    return not others or (isinstance(module, TRANSPOSED) and all(isinstance(x, int) for x in tree_leaves(others)))


def _inherits(module: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Whether it computes what its base class does (a subclass may standardise or mask its weights)."""
    base = next(kind for kind in types if isinstance(module, kind))
    methods = [name for name in ("forward", "_conv_forward") if hasattr(base, name)]
    return all(getattr(type(module), name) is getattr(base, name) for name in methods)


def _convolution(context: Context, node: fx.Node, module: nn.Conv2d) -> Step | None:
    source, shape = context.first(node), context.shape(node)
    if source is None or shape is None or len(shape) != len(module.kernel_size) + 2:
        return None
    area = math.prod(module.kernel_size)
    spots = positions(context.traced.macs[node], module)
    if module.groups == 1:
        return _mix(context, node, module.in_channels, module.out_channels, 1, (area, spots, module.bias is not None))
    if source.axis != 1 or source.span != 1:
        return None
    if module.groups != module.in_channels:
        if _is_padded(context, source):
            return None
        return Grouped(
            **context.base(node, axis=1, width=module.out_channels),
            reads=module.in_channels // module.groups,
            writes=module.out_channels // module.groups,
            why=context.why(node),
            macs_each=area * spots,
            params_each=area,
            has_bias=module.bias is not None,
        )
    if module.bias is not None and _is_padded(context, source):  # there it writes its bias
        return None
    return Depthwise(
        **context.base(node, axis=1, width=module.out_channels),
        multiplier=module.out_channels // module.in_channels,
        macs_each=area * spots,
        params_each=area + (module.bias is not None),
    )


def _is_padded(context: Context, source: Step) -> bool:
    """Whether a shortcut has padded channels, which are zero in the dense net already: a norm makes constants of them,
    and groups count them."""
    return context.complete(source.index) != full(source.width)


def _transposed(context: Context, node: fx.Node, module: nn.ConvTranspose2d) -> Step | None:
    shape = context.shape(node.args[0])
    if shape is None or module.groups > 1 or len(shape) != len(module.kernel_size) + 2:
        return None
    spots = positions(context.traced.macs[node], module)
    sizes = (math.prod(module.kernel_size), spots, module.bias is not None)
    step = _mix(context, node, module.in_channels, module.out_channels, 1, sizes)
    return None if step is None else replace(step, turned=True)


def _linear(context: Context, node: fx.Node, module: nn.Linear) -> Step | None:
    shape = context.shape(node)
    if shape is None or len(shape) < 2:
        return None
    spots = positions(context.traced.macs[node], module)
    sizes = (1, spots, module.bias is not None)
    return _mix(context, node, module.in_features, module.out_features, len(shape) - 1, sizes)


def positions(macs: int, module: nn.Module) -> int:
    """Places of one sample at which a layer multiplies all of its weights: tokens, outputs of one channel (inputs of a
    transposed convolution).

    They follow from what was counted, wherever the batch lies: windows or frames may be folded into it.
    """
    return macs // module.get_parameter("weight").numel()


def _mix(
    context: Context, node: fx.Node, num_in: int, num_out: int, axis: int, sizes: tuple[int, int, bool]
) -> Mix | None:
    """``sizes``: kernel area, positions (of the output; of a transposed convolution's input), whether it has a bias."""
    source = context.first(node)
    if source is None:
        return None
    area, spots, has_bias = sizes
    fits = source.axis == axis and source.width * source.span == num_in
    return Mix(
        **context.base(node, axis=axis, width=num_out),
        in_width=source.width if fits else num_in,
        in_span=source.span if fits else 1,
        whole=0 if fits else full(num_in),
        complete=0 if fits or source.axis is None else context.complete(source.index),
        why=context.why(node),
        macs_each=area * spots,
        params_each=area,
        has_bias=has_bias,
    )


def _norm(context: Context, node: fx.Node, module: nn.BatchNorm2d) -> Step | None:
    source = context.first(node)
    if source is None or source.axis != 1 or source.width * source.span != module.num_features:
        return None
    if _is_padded(context, source):
        return None
    return PerChannel(
        **context.base(node, axis=1, width=source.width, span=source.span),
        num_each=len(list(module.parameters())),
        is_norm=True,
    )


def _group_norm(context: Context, node: fx.Node, module: nn.GroupNorm) -> Step | None:
    """Of one channel a group; statistics of several would change with what is dead."""
    source = context.first(node)
    if module.num_groups != module.num_channels or source is None or source.axis != 1 or source.span != 1:
        return None
    if _is_padded(context, source):
        return None
    base = context.base(node, axis=1, width=source.width)
    return PerChannel(**base, num_each=len(list(module.parameters())), is_norm=True)


def _activation(context: Context, node: fx.Node, module: nn.Module) -> Step | None:
    parameters = list(module.parameters())
    width = parameters[0].numel() if parameters else 1
    zero = torch.zeros(1, width, device=parameters[0].device if parameters else None)
    with torch.no_grad():
        value = module(zero)
    if bool(value.ne(0).any()):
        return None
    if width == 1:
        return context.through(node, module=str(node.target), params=context.parameters(str(node.target)))
    source = context.first(node)
    if source is None or source.axis != 1 or source.width * source.span != width:
        return None
    base = context.base(node, axis=1, width=source.width, span=source.span)
    return PerChannel(**base, num_each=1, is_norm=False)


def _channelwise(context: Context, node: fx.Node, module: nn.Module) -> Step | None:
    """Numbers for each channel, in a layout in which they were tried out."""
    source, shape, layouts = context.first(node), context.shape(node), context.traced.known.channelwise
    if source is None or shape is None or (len(shape), source.axis) not in layouts[str(node.target)]:
        return None
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.numel() != 1]
    if source.width * source.span != tensors[0].numel() or _is_padded(context, source):
        return None
    base = context.base(node, axis=source.axis, width=source.width, span=source.span)
    return PerChannel(**base, num_each=len(list(module.parameters())), is_norm=False)


def _copy(context: Context, node: fx.Node, module: nn.Module) -> Step | None:
    return context.through(node, module=str(node.target))


def _softmax(context: Context, node: fx.Node, module: nn.Softmax) -> Step | None:
    return head_rules.weights(context, node, dim=module.dim)


def _flatten(context: Context, node: fx.Node, module: nn.Module) -> Step | None:
    return context.reshape(node) or head_rules.regroup(context, node)


def _unflatten(context: Context, node: fx.Node, module: nn.Unflatten) -> Step | None:
    return functions.unflattened(context, node, module.dim)


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    (CONVOLUTIONS, _convolution),
    (TRANSPOSED, _transposed),
    (LINEAR, _linear),
    (NORMS, _norm),
    ((nn.GroupNorm,), _group_norm),
    ((*ACTIVATIONS, *LIFTS), _activation),
    (COPIES, _copy),
    ((nn.Flatten,), _flatten),
    ((nn.Unflatten,), _unflatten),
    ((nn.LayerNorm, nn.RMSNorm), head_rules.norm),
    ((nn.Softmax,), _softmax),
)
