"""Removal while a net is trained: its parameters stay the same objects, with fewer entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.resize import Kept, set_sizes, slices, taken

Find = Callable[[str], nn.Module]
"""Path of a layer in the dense net -> the same layer in the net that is trained."""


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A parameter that has lost entries in place; an optimiser's state for it has to lose the same.

    Attributes:
        parameter: as it is now.
        before: its shape before.
        kept: the indices that stayed, along its first dimensions.
    """

    parameter: nn.Parameter
    before: tuple[int, ...]
    kept: Kept

    def take(self, tensor: Tensor) -> Tensor:
        """The part of a tensor of the shape ``before`` that stays."""
        return taken(tensor, self.kept)


def narrow_parameter(parameter: nn.Parameter, *kept: Sequence[Any]) -> Narrowed:
    """Leave only ``kept`` along the first dimensions, in place; its gradient is dropped."""
    found = Narrowed(parameter, tuple(parameter.shape), tuple(tuple(indices) for indices in kept))
    parameter.grad = None
    parameter.data = found.take(parameter.data)
    return found


def narrow(net_layer: Find, graph: ChannelGraph, *, before: Plan, after: Plan) -> list[Narrowed]:
    """Remove in place what is live under ``before`` and dead under ``after``: rows, columns, norms, running statistics.

    No addition may need a scatter, and no layer may lose all its channels: the net's operations stay as they are.

    Args:
        net_layer: finds a layer.
        graph: of the dense net.
        before: the plan whose shapes the net has.
        after: what stays of it.
    """
    found: list[Narrowed] = []
    for old, new in zip(slices(graph, before), slices(graph, after), strict=True):
        if (old.rows, old.columns, old.inside) == (new.rows, new.columns, new.inside):
            continue
        assert new.rows, f"{new.step.module} loses all its channels"
        columns = None if old.columns is None or new.columns is None else _places(new.columns, old.columns)
        rows = _places(new.rows, old.rows)
        inside = None
        if old.inside is not None and new.inside is not None:
            inside = [_places(now, old.inside[row]) for now, row in zip(new.inside, rows, strict=True)]
        part = replace(new, rows=rows, columns=columns, inside=inside)
        module = net_layer(part.step.module)
        for name, tensor in list(part.tensors(module)):
            if isinstance(tensor, nn.Parameter):
                found.append(narrow_parameter(tensor, *part.kept(name, tensor)))
            else:
                setattr(module, name, taken(tensor, part.kept(name, tensor)))
        set_sizes(module, new)
    return found


def take_shapes(net_layer: Find, graph: ChannelGraph, plan: Plan) -> None:
    """Give the layers the shapes that ``plan`` leaves, whatever shapes they have; what is in them is lost.

    It makes room for the tensors of a checkpoint. Parameters stay the same objects.
    """
    for part in slices(graph, plan):
        module = net_layer(part.step.module)
        for name, tensor in list(part.tensors(module)):
            shape = part.sizes(name, tensor)
            if shape == tuple(tensor.shape):
                continue
            if isinstance(tensor, nn.Parameter):
                resize_parameter(tensor, shape)
            else:
                setattr(module, name, tensor.new_zeros(shape))
        set_sizes(module, part)


def resize_parameter(parameter: nn.Parameter, shape: Sequence[int]) -> None:
    """Zeros of another shape, in place and in the same memory format."""
    last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    empty = parameter.data.new_zeros(tuple(shape))
    parameter.grad = None
    parameter.data = empty.contiguous(memory_format=torch.channels_last) if last else empty


def _places(wanted: Sequence[int], among: Sequence[int]) -> list[int]:
    """Where the ``wanted`` numbers are ``among`` others."""
    places = {index: place for place, index in enumerate(among)}
    return [places[index] for index in wanted]
