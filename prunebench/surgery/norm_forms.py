"""Batch norms under another class: a norm whose forward adds a dropout and an activation of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.surgery.equality import difference

_BASES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_Base = type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
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
    if (
        base is None
        or not isinstance(module, _BatchNorm)
        or type(module).forward is base.forward
        or not module.affine
        or module._forward_hooks
    ):
        return False
    parts = list(module.children())
    if any(part.state_dict() for part in parts) or len(module.state_dict()) != len(base(1).state_dict()):
        return False
    own = copy.deepcopy(module).float().cpu()
    shape = [4, len(own.get_parameter("weight")), *[3] * (_BASES.index(base) + 1)]
    return _holds(own, base, shape)


def holds_at(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether what :func:`is_norm_with_parts` has found holds for pictures of this size too."""
    base = next(kind for kind in _BASES if isinstance(module, kind))
    return _holds(copy.deepcopy(module).float().cpu(), base, shape)  # type: ignore[arg-type]


def _holds(own: _BatchNorm, base: _Base, shape: Sequence[int]) -> bool:
    """Whether it is the norm and then its parts. A forward pass that takes no such tensor is none."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    try:
        return all(_agree(own.train(training), base, x) for training in (False, True))
    except Exception:  # it is somebody's, and may raise anything: it is followed as any module, or else listed
        return False


@torch.no_grad()
def _agree(module: _BatchNorm, base: _Base, x: Tensor) -> bool:
    """``module`` in one mode; its state is the same afterwards."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = module(x.clone())
        changed = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(before)
        expected = base.forward(module, x)
        torch.manual_seed(0)
        for part in module.children():
            expected = part(expected)
        pairs = [(expected, found), *((module.state_dict()[name], tensor) for name, tensor in changed.items())]
        same = all(difference(left, right).within(_ROUNDING) for left, right in pairs)
        for parameter in module.parameters():
            parameter.zero_()
        silent = not module(x.clone()).any()
        module.load_state_dict(before)
    return same and silent
