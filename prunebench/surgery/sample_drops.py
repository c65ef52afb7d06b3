"""Stochastic depth: modules that in training multiply whole samples by a random number, and else do nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from prunebench.surgery.equality import difference

_ROUNDING = 1e-5
_SHAPES = ((8, 5, 3, 3), (8, 5, 3))
_SEEDS = range(3)


def sample_drops(net: nn.Module) -> frozenset[str]:
    """Paths of the modules that :func:`is_sample_drop` names."""
    return frozenset(path for path, module in net.named_modules() if path and is_sample_drop(module))


def is_sample_drop(module: nn.Module) -> bool:
    """Whether a module without a state multiplies each sample by one number, random in training and 1 else.

    Such a module has its own ways in the two modes, and yet works on each channel by itself. One that asks which mode
    it is in is tried out; all others can be followed as they are.
    """
    forward = type(module).forward
    asks = "training" in getattr(getattr(forward, "__code__", None), "co_names", ())
    if not asks or forward.__module__.startswith("torch.nn.") or list(module.children()):
        return False
    if [*module.parameters(), *module.buffers()] or module._forward_hooks or module._forward_pre_hooks:
        return False
    return all(holds_at(module, shape) for shape in _SHAPES)


def holds_at(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether what :func:`is_sample_drop` says holds for tensors of this shape."""
    try:
        return _multiplies_samples(copy.deepcopy(module), tuple(shape))
    except Exception:  # it takes other inputs than these: it is followed as any module, and listed if it cannot be
        return False


@torch.no_grad()
def _multiplies_samples(module: nn.Module, shape: tuple[int, ...]) -> bool:
    draws = torch.Generator().manual_seed(0)
    numbers = torch.randn(shape, generator=draws, dtype=torch.float32)
    x = numbers * torch.randint(0, 4, shape, generator=draws).sign()  # some are 0
    with torch.random.fork_rng(devices=[]):
        if not torch.equal(module.eval()(x.clone()), x):
            return False
        module.train()
        for seed in _SEEDS:
            torch.manual_seed(seed)
            factors = module(torch.ones_like(x))
            torch.manual_seed(seed)
            found = module(x.clone())
            each = factors.flatten(1)[:, :1].reshape(-1, *[1] * (x.dim() - 1)).expand(shape)
            if not all(difference(*pair).within(_ROUNDING) for pair in ((each, factors), (each * x, found))):
                return False
    return True
