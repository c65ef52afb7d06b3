"""What each layer may expect at its input, channel by channel, from the batch norms before it and without data.

A batch norm puts out about N(beta, gamma^2) in each channel. The mean is followed from there: through activations with
a closed form, poolings (which are taken to keep it), sums, concatenations. A sum of two norms is normal with added
variances; a rectified stream that is added to a norm is taken to stay as it is, since it is not negative (Duan et al.
2022, FSM: E = E[ReLU(N(beta, gamma^2))] + E of the block before). Behind a convolution nothing is known until its norm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx, nn

from prunebench.criteria import activation_moments
from prunebench.surgery.behind import SLOPE
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Mix
from prunebench.surgery.names import COPIES, POOLS, name_of
from prunebench.surgery.steps import Add, Cat, Extreme, Multiply, PerChannel, Reshape, Shift, Step, Subtract, Through

Mean = Callable[[Tensor, Tensor, str | None, float], Tensor]
"""(beta, gamma, activation, slope of a leaky ReLU) -> E[f(N(beta, gamma^2))], ``[channels]``."""

_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
)
_COPIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu"}
_UNCHANGED = POOLS | COPIES | {"mean", "getitem"}


def closed_form(beta: Tensor, gamma: Tensor, activation: str | None, slope: float) -> Tensor:
    """The mean for the scale |gamma|."""
    return activation_moments.mean(beta, gamma, activation=activation, slope=slope)


@dataclass(frozen=True)
class _Value:
    """A tensor's features: a normal part N(beta, gamma^2), where there is one, and a known mean beside it."""

    beta: Tensor | None
    gamma: Tensor | None
    rest: Tensor

    def total(self) -> Tensor:
        return self.rest if self.beta is None else self.beta + self.rest

    def each(self, change: Callable[[Tensor], Tensor]) -> _Value:
        if self.beta is None or self.gamma is None:
            return _Value(None, None, change(self.rest))
        return _Value(change(self.beta), change(self.gamma), change(self.rest))


def expected_inputs(net: nn.Module, graph: ChannelGraph, *, mean: Mean = closed_form) -> dict[str, Tensor]:
    """Expected value of each input feature of each layer of which it is known, ``[in]`` in float64.

    Args:
        net: with the dense net's shapes; channels that were cut have scale and shift 0, and so the mean 0.
        graph: of the dense net.
        mean: of an activation of a normal variable.
    """
    found: dict[str, Tensor] = {}
    values: list[_Value | None] = []
    for step, node in zip(graph.steps, graph.nodes, strict=True):
        if isinstance(step, Mix) and not step.turned and (source := values[step.inputs[0]]) is not None:
            features = source.total()
            if len(features) == step.in_width * step.in_span:
                found[step.module] = features
        values.append(_follow(step, node, net, values, graph, mean))
    return found


def _follow(
    step: Step, node: fx.Node, net: nn.Module, values: list[_Value | None], graph: ChannelGraph, mean: Mean
) -> _Value | None:
    given = [values[source] for source in step.inputs]
    if isinstance(step, PerChannel) and step.is_norm:
        return _norm(net.get_submodule(step.module))
    if isinstance(step, Multiply | Subtract | Extreme) or not given or any(value is None for value in given):
        return None
    known = [value for value in given if value is not None]
    if isinstance(step, Add):
        return None if any(step.whole) else _add(*known)
    if isinstance(step, Cat):
        return _cat(step, known)
    if isinstance(step, Shift):
        behind = step.width - step.offset - len(known[0].rest)
        return known[0].each(lambda x: torch.cat([x.new_zeros(step.offset), x, x.new_zeros(behind)]))
    if isinstance(step, Reshape):
        source = graph.steps[step.inputs[0]]
        return known[0].each(lambda x: x.repeat_interleave(step.span // source.span))
    if isinstance(step, Through) and not isinstance(step, PerChannel):
        return _through(step, node, net, known[0], mean)
    return None


def _norm(module: nn.Module) -> _Value | None:
    beta, gamma = module._parameters.get("bias"), module._parameters.get("weight")
    if beta is None or gamma is None:
        return None
    shift, scale = beta.detach().double(), gamma.detach().double()
    return _Value(shift, scale, torch.zeros_like(shift))


def _add(one: _Value, other: _Value) -> _Value:
    rest = one.rest + other.rest
    if one.beta is None or one.gamma is None:
        return _Value(other.beta, other.gamma, rest)
    if other.beta is None or other.gamma is None:
        return _Value(one.beta, one.gamma, rest)
    return _Value(one.beta + other.beta, torch.hypot(one.gamma, other.gamma), rest)  # independent


def _cat(step: Cat, pieces: list[_Value]) -> _Value | None:
    if any(step.whole):
        return None
    total = pieces[0].rest.new_zeros(step.width * step.span)
    for offset, piece in zip(step.offsets, pieces, strict=True):
        place = offset * step.span
        total[place : place + len(piece.rest)] = piece.total()
    return _Value(None, None, total)


def _through(step: Step, node: fx.Node, net: nn.Module, value: _Value, mean: Mean) -> _Value | None:
    module = net.get_submodule(step.module) if step.module else None
    name = "" if module is None else _ACTIVATIONS.get(type(module), "")
    name = name or name_of(node)
    if isinstance(module, (*_POOLS, *_COPIES)) or name in _UNCHANGED:
        return value
    if name not in activation_moments.ACTIVATIONS:
        return None
    if value.beta is None or value.gamma is None:
        return value  # it is a mean of what is not negative
    options = node.kwargs if module is None else vars(module)
    slope = options.get("negative_slope", SLOPE)
    assert isinstance(slope, int | float)
    return _Value(None, None, mean(value.beta, value.gamma, name, float(slope)) + value.rest)


def places_read(graph: ChannelGraph, layers: Collection[str]) -> dict[str, tuple[Tensor, int]]:
    """Where the channels that ``layers`` write, index by index, are read.

    Args:
        graph: of the dense net.
        layers: one layer, or layers whose outputs meet in additions.

    Returns:
        Reader -> for each of its input features the channel that it is, -1 for other ones ``[in]``; and how many of
        ``layers`` have written to that tensor.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    marks: list[tuple[Tensor, frozenset[str]] | None] = []
    for step in graph.steps:
        given = [marks[source] for source in step.inputs]
        if isinstance(step, Mix) and not step.turned and given[0] is not None:
            channels, writers = given[0]
            if len(channels) == step.in_width * step.in_span:
                found[step.module] = (channels, len(writers))
        if step.module in layers:
            marks.append((torch.arange(step.width), frozenset([step.module])))
        else:
            marks.append(_mark(step, given, graph))
    return found


def _mark(
    step: Step, given: list[tuple[Tensor, frozenset[str]] | None], graph: ChannelGraph
) -> tuple[Tensor, frozenset[str]] | None:
    known = [mark for mark in given if mark is not None]
    if not known or isinstance(step, Mix | Multiply):
        return None
    writers = frozenset[str]().union(*(own for _, own in known))
    if isinstance(step, Add):
        return torch.stack([channels for channels, _ in known]).amax(0), writers
    if isinstance(step, Cat):
        total = torch.full((step.width * step.span,), -1)
        for offset, mark in zip(step.offsets, given, strict=True):
            if mark is not None:
                total[offset * step.span : offset * step.span + len(mark[0])] = mark[0]
        return total, writers
    channels = known[0][0]
    if isinstance(step, Shift):
        total = torch.full((step.width,), -1)
        total[step.offset : step.offset + len(channels)] = channels
        return total, writers
    if isinstance(step, Reshape):
        return channels.repeat_interleave(step.span // graph.steps[step.inputs[0]].span), writers
    if isinstance(step, Depthwise):
        return channels.repeat_interleave(step.multiplier), writers
    return (channels, writers) if isinstance(step, Through) else None


@lru_cache(maxsize=512)
def readers(graph: ChannelGraph, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """The layers in which a removal of channels of ``layers`` is felt, and which channel each input feature is there.

    These are the convolutions of which the norms say what they may expect, behind the last sum that ``layers`` have a
    part in; other layers only where there is no such convolution. Features as in :func:`places_read`.
    """
    found = {name: place for name, place in places_read(graph, layers).items() if name in _known(graph)}
    convs = {name: place for name, place in found.items() if graph.layers[name].kind == "conv"}
    most = max((count for _, count in (convs or found).values()), default=0)
    return {name: channels for name, (channels, count) in (convs or found).items() if count == most}


@lru_cache(maxsize=8)
def _known(graph: ChannelGraph) -> frozenset[str]:
    return frozenset(expected_inputs(graph.traced.net, graph))
