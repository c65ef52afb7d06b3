"""Which slices of a module's tensors are live, and how to cut them out, zero the rest, or write them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.channel_tensors import channel_dim, set_channels
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import full, to_indices
from prunebench.surgery.steps import PerChannel, Step

Kept = Sequence[Sequence[Any]]
"""Indices along the first dimensions; of the second also one list for each row."""


@dataclass(frozen=True)
class Slice:
    """The live part of one module.

    Attributes:
        step: the operation.
        rows: live outputs (channels of a norm).
        columns: inputs that are still read; None if the module has no input dimension.
        selected: columns that the plan selects, all if it does not say; the others must be zero in the dense net.
        inside: of a grouped convolution, for each row the inputs of its group that are still read; else None.
        foreign: names of buffers that have nothing to do with its channels.
        dims: tensor -> dimension of the rows, where they lie behind single entries (``[1, C, 1, 1]``).
    """

    step: Step
    rows: list[int]
    columns: list[int] | None
    selected: list[int] | None
    inside: list[list[int]] | None = None
    foreign: frozenset[str] = frozenset()
    dims: Mapping[str, int] = field(default_factory=dict)

    @property
    def turned(self) -> bool:
        """Whether the second dimension of the weight stands first."""
        return isinstance(self.step, Mix) and self.step.turned

    @property
    def num_columns(self) -> int | None:
        """Length of the second dimension of the small weight; None if there is none."""
        if self.inside is not None:
            return len(self.inside[0]) if self.inside else 0
        return None if self.columns is None else len(self.columns)

    def tensors(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """The tensors with a dimension of rows, and perhaps one of columns."""
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.dim() > 0 and name not in self.foreign:
                yield name, tensor

    def rows_dim(self, name: str, tensor: Tensor) -> int:
        """Where the rows lie in one of these tensors: first, behind the columns if turned, or behind single entries."""
        return self.dims.get(name, int(self.turned and tensor.dim() > 1))

    def kept(self, name: str, tensor: Tensor) -> Kept:
        """The live indices of one of these tensors, along its first dimensions."""
        second = self.columns if self.inside is None else self.inside
        if second is None or tensor.dim() < 2:
            return [*[[0]] * self.rows_dim(name, tensor), self.rows]
        return [second, self.rows] if self.turned else [self.rows, second]

    def sizes(self, name: str, tensor: Tensor) -> tuple[int, ...]:
        """The shape of what is left of one of these tensors."""
        kept = self.kept(name, tensor)
        first = [len(indices) for indices in kept]
        if self.inside is not None and len(kept) > 1:
            first[1] = self.num_columns or 0
        return (*first, *tensor.shape[len(first) :])


def slices(graph: ChannelGraph, plan: Plan) -> list[Slice]:
    """The live part of each module that a plan can cut, none for a module that is not needed at all.

    Raises:
        UserError: the plan cannot be carried out.
    """
    live, choice = graph.live(plan)
    found: list[Slice] = []
    for step, needed in zip(graph.steps, graph.needed(live), strict=True):
        if not isinstance(step, Mix | Depthwise | Grouped | PerChannel):
            continue
        rows = to_indices(live[step.index] if needed else 0, step.span)
        columns = selected = inside = None
        if isinstance(step, Mix):
            width = step.in_width * step.in_span
            columns = to_indices(step.features(live, choice) if rows else 0)
            selected = to_indices(choice.inputs.get(step.module, full(width)))
        if isinstance(step, Grouped):
            groups = [to_indices(held) for held, _ in step.groups(live, choice)]
            inside = [groups[row // step.writes] for row in rows]
        module = graph.traced.net.get_submodule(step.module)
        found.append(Slice(step, rows, columns, selected, inside, _foreign(module, step), _dims(module, step)))
    return found


def _dims(module: nn.Module, step: Step) -> dict[str, int]:
    """Where the channels lie in the tensors of a dense module that works on each by itself, if not first."""
    if not isinstance(step, PerChannel):
        return {}
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    found = {name: channel_dim(tensor.shape, step.width * step.span) for name, tensor in tensors}
    return {name: dim for name, dim in found.items() if dim}


def _foreign(module: nn.Module, step: Step) -> frozenset[str]:
    """Buffers of a dense layer that are no numbers of its channels, as tools leave them."""
    turned, width = isinstance(step, Mix) and step.turned, step.width * step.span

    def fits(tensor: Tensor) -> bool:
        if isinstance(step, PerChannel):
            return channel_dim(tensor.shape, width) is not None or width == tensor.numel() == 1
        return tensor.shape[1 if turned and tensor.dim() > 1 else 0] == width

    return frozenset(n for n, tensor in module.named_buffers(recurse=False) if tensor.dim() and not fits(tensor))


def check_net(net: nn.Module, graph: ChannelGraph, parts: Sequence[Slice]) -> None:
    """Refuse a net that is not the one that was traced.

    Raises:
        UserError: names the layer.
    """
    known = dict(net.named_modules())
    for part in parts:
        name = part.step.module
        traced, module = graph.traced.net.get_submodule(name), known.get(name)
        if module is None or _sizes(module) != _sizes(traced):
            found = "has none of that name" if module is None else f"has {type(module).__name__} {_sizes(module)}"
            raise UserError(
                f"the net is not the one that the plan is for: at '{name}' that has {type(traced).__name__} "
                f"{_sizes(traced)}, and this one {found}; plans are always for the dense net"
            )


def cut(module: nn.Module, part: Slice) -> None:
    """Make a module small, in place: its tensors become new, smaller parameters and buffers."""
    for name, tensor in list(part.tensors(module)):
        small = taken(tensor, part.kept(name, tensor))
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(small, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, small)
    set_sizes(module, part)


def places(kept: Kept, device: torch.device) -> tuple[Tensor, ...]:
    """Indices of the entries ``kept`` along the first dimensions, each of a shape that meets those of the others."""
    found = [torch.tensor(indices, dtype=torch.long, device=device) for indices in kept]
    behind = [len(found) - dim - 1 for dim in range(len(found))]
    return tuple(
        indices if indices.dim() == 2 else indices.reshape(-1, *[1] * more)
        for indices, more in zip(found, behind, strict=True)
    )


def taken(tensor: Tensor, kept: Kept) -> Tensor:
    """A copy of the entries ``kept`` along the first dimensions, in the memory format of ``tensor``."""
    small = tensor.detach()
    for dim, indices in enumerate(kept):
        places = torch.tensor(indices, dtype=torch.long, device=small.device)
        if places.dim() == 2:  # each row its own
            small = small[torch.arange(len(places), device=small.device)[:, None], places]
        else:
            small = small.index_select(dim, places)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return small.contiguous(memory_format=torch.channels_last)
    return small.contiguous()


def set_sizes(module: nn.Module, part: Slice) -> None:
    """Make what a module says of its sizes fit its tensors."""
    if isinstance(part.step, PerChannel):
        set_channels(module, len(part.rows))
        return
    linear = isinstance(module, nn.Linear)
    setattr(module, "out_features" if linear else "out_channels", len(part.rows))
    if part.columns is not None:
        setattr(module, "in_features" if linear else "in_channels", len(part.columns))
    elif isinstance(part.step, Grouped):
        groups, columns = len({row // part.step.writes for row in part.rows}), part.num_columns or 0
        module.groups, module.in_channels = groups, groups * columns  # type: ignore[assignment]
    else:
        assert isinstance(part.step, Depthwise)
        groups = len(part.rows) // part.step.multiplier
        module.in_channels = module.groups = groups  # type: ignore[assignment]


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
