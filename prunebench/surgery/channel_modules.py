"""Modules with numbers of their own for each channel: a frozen batch norm, a learned scale and shift."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from prunebench.surgery.channel_tensors import channel_dim, dead_value, set_channels
from prunebench.surgery.equality import difference

Layout = tuple[int, int]
"""Number of dimensions of a tensor, and which of them are the channels."""

_ROUNDING = 1e-5
_INPUTS = ((1.0, (5, 3, 2, 2)), (40.0, (1, 4, 3, 2)), (0.1, (4, 2, 2, 3)))
"""Standard deviations of inputs, and sizes of the other dimensions."""
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"}
_LAYOUTS: tuple[Layout, ...] = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 3), (5, 1), (5, 4))


def channel_modules(net: nn.Module) -> dict[str, frozenset[Layout]]:
    """Paths of the modules that work on each channel by themselves, with the layouts that they take.

    They are tried out, so that it does not matter how they are written. Layers of torch are left out: they have rules.
    """
    known: dict[Any, frozenset[Layout]] = {}
    found: dict[str, frozenset[Layout]] = {}
    for path, module in net.named_modules():
        alike = _alike(module)
        if alike not in known:
            known[alike] = layouts_of(module)
        if path and known[alike]:
            found[path] = known[alike]
    return found


def _alike(module: nn.Module) -> Any:
    """Equal for two modules of one class with equal attributes whose tensors differ in their values alone."""
    tensors = [(name, tensor.shape) for name, tensor in _tensors(module) if not is_lazy(tensor)]
    others = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
    simple = all(isinstance(value, int | float | str | None) for value in others.values())
    simple &= all(is_lazy(tensor) or tensor.numel() != 1 for _, tensor in _tensors(module))
    hooked = module._forward_hooks or module._forward_pre_hooks or module._modules
    return (type(module), *tensors, *sorted(others.items())) if simple and not hooked else module


def layouts_of(module: nn.Module) -> frozenset[Layout]:
    """The layouts in which a module keeps shape and mode, and in which all of its numbers belong to one channel each.

    Cut to some channels it computes what it did for these, and with its numbers for a channel at 0 (a variance at 1) a
    channel of zeros stays one.
    """
    width = _width(module)
    hooks = module._forward_hooks or module._forward_pre_hooks
    if width is None or type(module).forward.__module__.startswith("torch.") or [*module.children()] or hooks:
        return frozenset()
    drawn = _with_random_numbers(module, width)
    return frozenset(layout for layout in _LAYOUTS if _works(drawn, width, layout))


def holds_at(module: nn.Module, shape: Sequence[int], layouts: Collection[Layout]) -> bool:
    """Whether what :func:`layouts_of` has found holds for tensors of this shape too, if it is one of the layouts.

    What works on each channel by itself for small pictures need not do so for large ones.
    """
    width = _width(module)
    found = [layout for layout in layouts if layout[0] == len(shape) and shape[layout[1]] == width]
    if width is None or not found:
        return True  # no rule takes it for such a module
    draws = torch.Generator().manual_seed(2)
    x = _randn(shape, draws)
    kept = torch.arange(width)[1::2]
    return all(_keeps_promises(_with_random_numbers(module, width), kept, layout, x) for layout in found)


def _width(module: nn.Module) -> int | None:
    """How many channels a module has numbers for; None unless all its parameters, and the buffers of several numbers,
    have one for each."""
    parameters = list(module.parameters())
    buffers = [tensor for tensor in module.buffers() if is_lazy(tensor) or tensor.numel() != 1]
    tensors = [*parameters, *buffers]
    if any(is_lazy(tensor) for tensor in tensors):
        return None
    sizes = {tensor.numel() for tensor in tensors}
    width = sizes.pop() if len(sizes) == 1 else 0
    fits = all(tensor.is_floating_point() and channel_dim(tensor.shape, width) is not None for tensor in tensors)
    return width if width > 1 and fits else None


@torch.no_grad()
def _with_random_numbers(module: nn.Module, width: int) -> nn.Module:
    """A copy in float32 whose own numbers hide nothing: none is 0 or 1, all are above 0 as variances are."""
    module = copy.deepcopy(module).float().cpu()
    draws = torch.Generator().manual_seed(0)
    for tensor in _own(module, width).values():
        tensor.copy_(torch.rand(tensor.shape, generator=draws) + 0.5)
    return module


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _own(module: nn.Module, width: int) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in _tensors(module) if channel_dim(tensor.shape, width) is not None}


def _works(module: nn.Module, width: int, layout: Layout) -> bool:
    """Whether it keeps its promises for several sizes and sets of channels."""
    draws = torch.Generator().manual_seed(1)
    sets = _sets(width, draws)
    return all(
        _keeps_promises(module, kept, layout, size * _randn(_shape(sizes, width, layout), draws))
        for kept, (size, sizes) in zip(sets, itertools.cycle(_INPUTS), strict=False)
    )


def _sets(width: int, draws: torch.Generator) -> list[Tensor]:
    """Which channels stay: every other one, all but the first, all but the last, the first few, one, some at random."""
    everything = torch.arange(width)
    numbers = [max(1, width * share // 8) for share in (3, 5, 7)]
    drawn = [torch.randperm(width, generator=draws)[:number].sort().values for number in numbers]
    found = [everything[::2], everything[1:], everything[:-1], everything[: max(1, width // 3)], everything[-1:]]
    return [kept for kept in (*found, *drawn) if len(kept) < width]


def _randn(shape: Sequence[int], draws: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=draws, dtype=torch.float32)


def _shape(sizes: tuple[int, ...], width: int, layout: Layout) -> list[int]:
    dims, axis = layout
    shape = [*sizes[: dims - 1]]
    shape.insert(axis, width)
    return shape


@torch.no_grad()
def _keeps_promises(module: nn.Module, kept: Tensor, layout: Layout, x: Tensor) -> bool:
    axis, width = layout[1], x.shape[layout[1]]
    gone = torch.tensor([channel for channel in range(width) if channel not in kept.tolist()])
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            y = module.eval()(x.clone())
            again = module.train()(x.clone())
            part = _cut(module, width, kept)(x.index_select(axis, kept))
            silent = _silenced(module, width, gone)(x.index_fill(axis, gone, 0.0))
    except Exception:  # it takes other inputs, or wants its old width: it is followed as any module, or else listed
        return False
    unmoved = all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    if not unmoved or not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    own = y.index_select(axis, kept)
    pairs = ((y, again), (own, part), (own, silent.index_select(axis, kept)))
    return not silent.index_select(axis, gone).any() and all(difference(*pair).within(_ROUNDING) for pair in pairs)


def _cut(module: nn.Module, width: int, kept: Tensor) -> nn.Module:
    small = copy.deepcopy(module)
    for name, tensor in _own(small, width).items():
        dim = channel_dim(tensor.shape, width)
        assert dim is not None
        taken = tensor.detach().index_select(dim, kept)
        setattr(small, name, nn.Parameter(taken) if isinstance(tensor, nn.Parameter) else taken)
    set_channels(small, len(kept))
    return small


def _silenced(module: nn.Module, width: int, gone: Tensor) -> nn.Module:
    silent = copy.deepcopy(module)
    for name, tensor in _own(silent, width).items():
        dim = channel_dim(tensor.shape, width)
        assert dim is not None
        tensor.detach().index_fill_(dim, gone, dead_value(name))
    return silent
