"""Rebuilding a layer's output from some of its input channels, as samples say: what is read, where, and the cut.

See :mod:`prunebench.methods.bases.walk` for how the net is run meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.budget import Choice
from prunebench.core.context import Extracted, Run
from prunebench.errors import UserError
from prunebench.methods.bases.walk import Take
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A layer that reads channels: a 2-d convolution without groups, or a linear layer.

    Attributes:
        name: path of the module; ``module``: it, for its options alone.
        step: its operation; ``source``: the operation whose channels it reads.
        width: number of these channels.
        span: features of one channel: 1, but behind a flatten height x width.
        taps: weights of one channel and one output: these features, or the positions of the kernel.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    step: int
    source: int
    width: int
    span: int
    taps: int

    @classmethod
    def of(cls, graph: ChannelGraph, name: str) -> Reader | None:
        """The layer ``name``; None if it is neither, or its channels cannot be followed."""
        module = graph.traced.net.get_submodule(name)
        step = next((s for s in graph.steps if isinstance(s, Mix) and s.module == name and not s.complete), None)
        if step is None or not isinstance(module, nn.Conv2d | nn.Linear):
            return None
        fields = {"step": step.index, "source": step.inputs[0], "width": step.in_width, "span": step.in_span}
        return cls(name=name, module=module, taps=step.in_span * graph.layers[name].kernel_area, **fields)

    def weight(self, net: nn.Module) -> Tensor:
        """``[outputs, width, taps]``."""
        weight = net.get_parameter(f"{self.name}.weight").detach()
        return weight.reshape(len(weight), self.width, self.taps)

    def bias(self, net: nn.Module) -> Tensor:
        """``[outputs]``, zeros without one."""
        weight, bias = (getattr(net.get_submodule(self.name), name) for name in ("weight", "bias"))
        found: Tensor = weight.new_zeros(len(weight)) if bias is None else bias
        return found.detach()

    def set_weight(self, net: nn.Module, weight: Tensor) -> None:
        """Write a weight of that shape into ``net``."""
        held = net.get_parameter(f"{self.name}.weight").data
        held.copy_(weight.reshape(held.shape))

    def windows(self, places: Tensor) -> Take:
        """What the layer reads for each place of its output: ``[n, width, taps]``.

        Args:
            places: positions, counted row by row, ``[pictures, places]``.
        """

        def take(x: Tensor, rows: slice) -> Tensor:
            at, conv = places[rows].to(x.device), self.module
            found = _patches(conv, x, at) if isinstance(conv, nn.Conv2d) else _features(x, at, axis=-1)
            return found.reshape(-1, self.width, self.taps)

        return take

    def outputs(self, places: Tensor) -> Take:
        """What the layer, or an operation of its shape, gives at each place: ``[n, outputs]``."""
        axis = 1 if isinstance(self.module, nn.Conv2d) else -1
        return lambda y, rows: _features(y, places[rows].to(y.device), axis=axis)


def _features(x: Tensor, places: Tensor, *, axis: int) -> Tensor:
    """All channels (dimension ``axis``) at places among the other dimensions: ``[n, channels]``."""
    flat = x.movedim(axis, -1).reshape(len(x), -1, x.shape[axis])
    return flat[torch.arange(len(x), device=x.device)[:, None], places].flatten(0, 1)


def _patches(conv: nn.Conv2d, x: Tensor, places: Tensor) -> Tensor:
    """The padded input under the kernel, ``[n, channels, kernel height, kernel width]``."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    span = conv.dilation[1] * (conv.kernel_size[1] - 1) + 1
    columns = (x.shape[-1] - span) // conv.stride[1] + 1  # of the output
    corners = (places // columns * conv.stride[0], places % columns * conv.stride[1])
    row, column = (
        corner[..., None] + torch.arange(size, device=x.device) * dilation
        for corner, size, dilation in zip(corners, conv.kernel_size, conv.dilation, strict=True)
    )
    picture = torch.arange(len(x), device=x.device)[:, None, None, None]
    found = x[picture, :, row[..., :, None], column[..., None, :]]  # [pictures, places, height, width, channels]
    return found.flatten(0, 1).movedim(-1, 1)


def draw_places(num_pictures: int, number: int, positions: int, *, draws: torch.Generator, distinct: bool) -> Tensor:
    """Positions of a map, ``[pictures, places]``: ``number`` for each picture; all of a smaller one if they differ."""
    if not distinct:
        return torch.randint(positions, (num_pictures, number), generator=draws)
    return torch.stack([torch.randperm(positions, generator=draws)[:number] for _ in range(num_pictures)])


def pictures_of_each_class(run: Run, number: int) -> Tensor:
    """``number`` random training pictures of each class, without augmentation, on ``run.device``.

    Raises:
        UserError: a class has fewer.
    """
    missing = dict.fromkeys(range(run.data.num_classes), number)
    found: list[Tensor] = []
    for inputs, labels in run.samples("reconstruction", run.data.num_train):
        chosen = []
        for place, label in enumerate(labels.tolist()):
            if missing[label]:
                missing[label] -= 1
                chosen.append(place)
        found.append(inputs[chosen])
        if not any(missing.values()):
            return torch.cat(found).to(run.device)
    label, left = next((label, left) for label, left in missing.items() if left)
    raise UserError(
        f"method.images_per_class={number}, but class {label} of dataset={run.data.name} has only "
        f"{number - left} training pictures; lower it"
    )


@dataclass(frozen=True)
class Rebuilt:
    """What was found at a cut: the channels, and the tensors of the net's state that have new values."""

    choice: Choice
    tensors: Mapping[str, Tensor]


def carry_out(net: nn.Module, run: Run, rebuild: Callable[[], Rebuilt]) -> Extracted:
    """The cut of ``net`` (dense shapes) that ``rebuild`` finds; a resumed run repeats what is stored."""
    assert run.phase is not None
    found = cache(rebuild)
    choice = run.choose(lambda: found().choice)
    tensors = run.once_tensors(f"rebuilt-{run.phase.name}", lambda: found().tensors)
    net = copy.deepcopy(net)
    state = net.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    return run.cut(net, choice)
