"""Batch norms under another class: a norm whose forward adds a dropout and an activation of its own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunebench.surgery.equality import difference

_BASES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ROUNDING = 1e-5


def norms_with_parts(net: nn.Module) -> frozenset[str]:
    """Paths of the modules that :func:`is_norm_with_parts` names."""
    return frozenset(path for path, module in net.named_modules() if is_norm_with_parts(module))


def is_norm_with_parts(module: nn.Module) -> bool:
    """Whether a subclass of a batch norm with a forward of its own computes the norm and then its parts, in order.

    It is tried out in both modes, statistics included. The parts have no state and leave a channel of zeros at zero, so
    that the module works on each channel by itself as a norm does.
    """
    base = next((kind for kind in _BASES if isinstance(module, kind)), None)
    if base is None or type(module).forward is base.forward or not module.affine or module._forward_hooks:
        return False
    parts = list(module.children())
    if any(part.state_dict() for part in parts) or len(module.state_dict()) != len(base(1).state_dict()):
        return False
    shape = [4, len(module.get_parameter("weight")), *[3] * (_BASES.index(base) + 1)]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return all(_agree(module, base, x, training=training) for training in (False, True))


@torch.no_grad()
def _agree(module: nn.Module, base: type[nn.Module], x: Tensor, *, training: bool) -> bool:
    one, other, silent = (copy.deepcopy(module).float().cpu().train(training) for _ in range(3))
    for parameter in silent.parameters():
        parameter.zero_()
    expected = base.forward(other, x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in other.children():
            expected = part(expected)
        torch.manual_seed(0)
        found = one(x.clone())
        state = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        same = all(difference(left, right).within(_ROUNDING) for left, right in state)
        return same and difference(expected, found).within(_ROUNDING) and not silent(x.clone()).any()
