"""Layers whose weight is a parameter of their own, and those that a net must not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from prunebench.errors import UserError

_HOOKS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def has_own_weight(module: nn.Module) -> bool:
    """Whether ``module.weight`` is a parameter that a method may mask, score or replace.

    That of spectral norm or weight norm (``torch.nn.utils.parametrizations``) is computed from others.
    """
    return module._parameters.get("weight") is not None


def check_copies(net: nn.Module) -> None:
    """Refuse a net that cannot be copied, or whose sizes are not known yet.

    Raises:
        UserError: a module keeps a tensor that was computed with gradients (``torch.nn.utils.prune``, the old hooks of
            weight norm and spectral norm, a cache), is lazy, or has a forward of its own: the copy would still run the
            original's weights; names it.
    """
    for path, module in net.named_modules():
        where = f"layer '{path}' ({type(module).__name__})"
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise UserError(f"{where} has no sizes yet; give them where the net is built, or call the net once there")
        for hook in module._forward_pre_hooks.values():
            if (place := type(hook).__module__) in _HOOKS:
                name = place.rpartition(".")[2]
                raise UserError(
                    f"layer '{path}' has the hook of torch.nn.utils.{name}, whose weight cannot be copied; use "
                    f"torch.nn.utils.parametrizations.{name}, or remove it first (torch.nn.utils.remove_{name})"
                )
        if not _forward_is_of_class(module):
            raise UserError(
                f"the forward of {path or type(net).__name__} was replaced on the object, so that a copy of the net "
                "would not be the same; write it as a method of a class of its own"
            )
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                masked = f"{name}_mask" in module._buffers
                remove = f"call torch.nn.utils.prune.remove(layer, '{name}')"
                how = remove if masked else "compute it in forward, or detach it"
                what = f"keeps '{name}', which was computed from parameters and cannot be copied"
                raise UserError(f"{where} {what}; {how}")


def _forward_is_of_class(module: nn.Module) -> bool:
    """Whether a module computes what its class says.

    ``self.forward = self.other``, where the class chooses among its own methods, goes along when the module is copied.
    """
    own = vars(module).get("forward")
    if own is None or isinstance(module, torch.jit.ScriptModule):
        return True
    method = getattr(own, "__func__", None)
    return method is not None and getattr(type(module), method.__name__, None) is method and own.__self__ is module
