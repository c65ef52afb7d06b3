"""The channels of a net with zeros among its weights that do nothing, found by following the zeros both ways.

A channel that nobody reads does nothing. A channel whose own weights are all zero is a constant, whatever the input;
what it adds to its readers can be moved into their biases, and then nobody reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunebench.surgery.families import CONVOLUTIONS
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.heads import Attend, HeadProduct, Heads, Weights
from prunebench.surgery.layer_steps import Depthwise, Mix
from prunebench.surgery.pieces import completed
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits, full, to_bits, to_indices
from prunebench.surgery.steps import Add, Cat, Piece, Reorder, Shift, Source, Step, Through

_NUM_PROBES = 4  # random inputs on which a channel that must be constant is seen to be so
_TOLERANCE = 1e-5


@torch.no_grad()
def without_constants(net: nn.Module, graph: ChannelGraph, example: Tensor) -> nn.Module:
    """A copy of ``net`` that reads no constant channel any more; its output in evaluation mode is the same.

    A convolution that pads its input with zeros sees no constant, and without a bias there is no place for one; there
    only channels that are constantly zero are left out.

    Args:
        net: the dense net with zeros among its weights.
        graph: of that net.
        example: ``[1, ...]``, gives the shape of the probes.
    """
    net = copy.deepcopy(net).eval()
    while True:
        constant = {
            name: (layer.by_outputs(net.get_parameter(f"{name}.weight")).flatten(1) == 0).all(1)
            for name, layer in graph.layers.items()
            if not layer.is_output
        }
        low, high = _extremes(net, graph, example)
        moved = [
            _move(net.get_submodule(reader), constant[name], low[reader], high[reader])
            for name, layer in graph.layers.items()
            if name in constant and constant[name].any()
            for reader in layer.readers
            if graph.layers[reader].kind != "transposed"  # what it adds is not the same everywhere
        ]
        if not any(moved):
            return net


def unread(net: nn.Module, graph: ChannelGraph) -> Plan:
    """The plan that removes the channels of ``net`` (dense shapes) whose every way to the output leads through zeros.

    At least one channel of each layer stays.
    """
    everything, _ = graph.live(Plan())
    needed: list[Bits] = [0] * len(graph.steps)
    for step in reversed(graph.steps):
        for source, bits in zip(step.inputs, _reads(step, needed[step.index], everything, net), strict=True):
            needed[source] |= bits
    keep: dict[str, tuple[int, ...]] = {}
    for step in graph.steps:
        partly = isinstance(step, Mix) and needed[step.index] != full(step.width)
        if partly and graph.why_not(step.module) is None:
            # without any input the reader would lose its own bias and norm, which are no part of the channel
            everywhere = graph.pieces(step.module) or (full(step.width),)
            kept = completed(needed[step.index], everywhere, range(step.width - 1, -1, -1))
            keep[step.module] = tuple(to_indices(kept))
    return Plan(keep=keep)


def _reads(step: Step, needed: Bits, everything: Sequence[Bits], net: nn.Module) -> list[Bits]:
    """Which channels of each input a step reads to give the ``needed`` channels of its output."""
    whole = [everything[source] for source in step.inputs]
    if isinstance(step, Mix):
        return [_columns(step, needed, net, everything[step.inputs[0]]), *whole[1:]]
    if isinstance(step, Heads):
        return [step.channels(needed), *whole[1:]]
    if isinstance(step, HeadProduct | Attend | Weights):
        return [needed if axis is not None else all_of for axis, all_of in zip(step.axes, whole, strict=True)]
    if isinstance(step, Through | Add):
        known = [full(step.width) & needed] * len(whole)
        broadcast = step.whole if isinstance(step, Add) else (0,) * len(whole)
        return [full_set if wide else bits for bits, wide, full_set in zip(known, broadcast, whole, strict=True)]
    if isinstance(step, Shift):
        return [needed >> step.offset]
    if isinstance(step, Piece):
        return [needed << step.offset, *whole[1:]]
    if isinstance(step, Reorder):
        return [to_bits(step.order[place] for place in to_indices(needed))]
    if isinstance(step, Cat):
        return [(needed >> offset) & bits for offset, bits in zip(step.offsets, whole, strict=True)]
    if isinstance(step, Depthwise):
        return [sum(1 << c for c in {c // step.multiplier for c in to_indices(needed)})]
    return [0] * len(whole) if isinstance(step, Source) else whole


def _columns(step: Mix, needed: Bits, net: nn.Module, whole: Bits) -> Bits:
    if not needed:
        return 0
    weight = net.get_submodule(step.module).get_parameter("weight").detach()
    weight = weight.transpose(0, 1) if step.turned else weight
    if step.whole or step.complete or weight.shape[1] != step.in_width * step.in_span:
        return whole
    rows = weight[to_indices(needed)]
    used = (rows.flatten(2) != 0).any(2) if rows.dim() > 2 else rows != 0
    features = used.any(0).view(step.in_width, step.in_span).any(1)
    return sum(1 << channel for channel in features.nonzero().flatten().tolist())


def _extremes(net: nn.Module, graph: ChannelGraph, example: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Smallest and largest value of each input feature of each layer on random inputs, ``[in]``."""
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    hooks = []
    for name, layer in graph.layers.items():

        def look(module: nn.Module, args: tuple[Tensor], name: str = name, kind: str = layer.kind) -> None:
            x = args[0].flatten(0, -2) if kind == "linear" else args[0].flatten(2).transpose(1, 2).flatten(0, 1)
            low[name], high[name] = x.amin(0), x.amax(0)

        hooks.append(net.get_submodule(name).register_forward_pre_hook(look))
    probes = torch.randn(
        _NUM_PROBES, *example.shape[1:], generator=torch.Generator().manual_seed(0), dtype=example.dtype
    )
    net(probes)
    for hook in hooks:
        hook.remove()
    return low, high


def _move(reader: nn.Module, constant: Tensor, low: Tensor, high: Tensor) -> bool:
    """Put what the ``constant`` channels add to ``reader`` into its bias and zero the weights that read them."""
    weight = reader.get_parameter("weight")
    if weight.shape[1] % len(constant) or weight.shape[1] != len(low):
        return False  # a grouped convolution, or channels under other numbers
    span = weight.shape[1] // len(constant)
    same = (high - low) <= _TOLERANCE * low.abs().clamp_min(1.0)
    chosen = constant.repeat_interleave(span) & same
    bias: Tensor | None = reader._parameters.get("bias")
    padded = isinstance(reader, CONVOLUTIONS) and (
        reader.padding_mode != "zeros" or (reader.padding != "valid" and any(reader.padding))
    )
    if bias is None or padded:
        chosen = chosen & (low == 0) & (high == 0)
    chosen = chosen & (weight.flatten(2) if weight.dim() > 2 else weight[..., None]).ne(0).any(2).any(0)
    if not chosen.any():
        return False
    if bias is not None:
        taps = (weight.flatten(2).sum(2) if weight.dim() > 2 else weight)[:, chosen]
        bias.add_(taps @ (0.5 * (low + high)[chosen]))
    weight[:, chosen] = 0
    return True
