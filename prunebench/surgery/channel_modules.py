"""Modules with numbers of their own for each channel: a frozen batch norm, a learned scale and shift."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunebench.surgery.equality import difference

Layout = tuple[int, int]
"""Number of dimensions of a tensor, and which of them are the channels."""

_ROUNDING = 1e-5
_SIZES = (5, 3, 4, 2)  # of the other dimensions
_LAYOUTS: tuple[Layout, ...] = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 3), (5, 1), (5, 4))


def channel_modules(net: nn.Module) -> dict[str, frozenset[Layout]]:
    """Paths of the modules that work on each channel by themselves, with the layouts that they take.

    They are tried out, so that it does not matter how they are written. Layers of torch are left out: they have rules.
    """
    found = {path: layouts_of(module) for path, module in net.named_modules() if path}
    return {path: layouts for path, layouts in found.items() if layouts}


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


def channel_dim(shape: torch.Size, width: int) -> int | None:
    """The dimension of ``width`` channels of a tensor that is one number for each; None for any other tensor."""
    long = [place for place, size in enumerate(shape) if size != 1]
    return long[0] if len(long) == 1 and shape[long[0]] == width else None


def _width(module: nn.Module) -> int | None:
    """How many channels a module has numbers for; None unless all its parameters, and the buffers of several numbers,
    have one for each."""
    parameters, buffers = list(module.parameters()), [tensor for tensor in module.buffers() if tensor.numel() != 1]
    tensors = [*parameters, *buffers]
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


def _own(module: nn.Module, width: int) -> dict[str, Tensor]:
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor for name, tensor in tensors if channel_dim(tensor.shape, width) is not None}


@torch.no_grad()
def _works(module: nn.Module, width: int, layout: Layout) -> bool:
    dims, axis = layout
    shape = [*_SIZES[: dims - 1]]
    shape.insert(axis, width)
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=draws)
    kept = torch.arange(0, width, 2)
    gone = torch.arange(1, width, 2)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            y = module.eval()(x.clone())
            again = module.train()(x.clone())
            part = _cut(module, width, kept)(x.index_select(axis, kept))
            silent = _silenced(module, width, gone)(x.index_fill(axis, gone, 0.0))
    except Exception:  # it takes other inputs, or asks for its old width: it is followed as any module
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
    return small


def _silenced(module: nn.Module, width: int, gone: Tensor) -> nn.Module:
    silent = copy.deepcopy(module)
    for name, tensor in _own(silent, width).items():
        dim = channel_dim(tensor.shape, width)
        assert dim is not None
        tensor.detach().index_fill_(dim, gone, dead_value(name))
    return silent


def dead_value(name: str) -> float:
    """What a tensor of this name holds for a dead channel: a variance of 0 would make an infinite scale."""
    return 1.0 if name == "running_var" else 0.0
