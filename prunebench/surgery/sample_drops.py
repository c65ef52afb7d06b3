"""Stochastic depth: modules that in training multiply whole samples by a random number, and else do nothing."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prunebench.surgery.equality import difference

_ROUNDING = 1e-5
_SHAPES = ((8, 5, 3, 3), (8, 5, 3))
_SEEDS = range(3)
_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def sample_drops(net: nn.Module) -> frozenset[str]:
    """Paths of the modules that :func:`is_sample_drop` names."""
    return frozenset(path for path, module in net.named_modules() if path and is_sample_drop(module))


def is_sample_drop(module: nn.Module) -> bool:
    """Whether a module without a state multiplies each sample by one number, random in training and 1 else.

    Such a module has its own ways in the two modes, and yet works on each channel by itself. It is tried out.
    """
    if any(True for _ in module.children()) or type(module).forward.__module__.startswith("torch.nn."):
        return False
    if [*module.parameters(), *module.buffers()] or module._forward_hooks or module._forward_pre_hooks:
        return False
    if module not in _KNOWN:
        _KNOWN[module] = _does_it(module)
    return _KNOWN[module]


@torch.no_grad()
def _does_it(module: nn.Module) -> bool:
    own = copy.deepcopy(module)
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        for shape in _SHAPES:
            x = torch.rand(shape, generator=draws) + 0.5
            try:
                rests = torch.equal(own.eval()(x.clone()), x)
                drops = rests and all(_multiplies(own.train(), x, seed) for seed in _SEEDS)
            except Exception:  # it wants other inputs than one tensor of any shape, so it is something else
                return False
            if not drops:
                return False
    return True


def _multiplies(module: nn.Module, x: Tensor, seed: int) -> bool:
    """Whether the factors of all numbers of a sample are one, and the same for other numbers."""
    torch.manual_seed(seed)
    factors = module(x.clone()) / x
    torch.manual_seed(seed)
    other = module(-x.flip(0).contiguous())
    each = factors.flatten(1)[:, :1].reshape(-1, *[1] * (x.dim() - 1))
    expected = -x.flip(0) * each
    return difference(each.expand_as(factors), factors).within(_ROUNDING) and difference(expected, other).within(
        _ROUNDING
    )
