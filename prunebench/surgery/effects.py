"""What a net does beside computing its outputs, which a net of its operations would no longer do."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.faithful import outputs
from prunebench.surgery.recorder import SEED

_LARGE = 10.0
"""Deviation of the weights that a constraint or a mask in the forward pass must show itself on."""


def check_gradient_hooks(net: nn.Module) -> None:
    """Refuse hooks that act in the backward pass: a cut net has new parameters and no modules of the old classes.

    Raises:
        UserError: a parameter or a module has one; names it.
    """
    for name, parameter in net.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise UserError(
                f"the parameter {name} has a hook for its gradient, which a cut net would lose; remove it, or freeze "
                "the parameter with requires_grad_(False)"
            )
    for name, module in net.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise UserError(
                f"{name or type(net).__name__} has a backward hook, which a cut net would lose; remove it before"
            )


def check_not_compiled(net: nn.Module) -> None:
    """Refuse TorchScript, which hides its operations.

    Raises:
        UserError: a module is compiled; names it.
    """
    for name, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{name or module.original_name} is compiled by TorchScript, whose operations cannot be followed; use "
                "its Python class"
            )


def check_parameters_stay(net: nn.Module, inputs: Tensor, *, apart: Collection[str]) -> None:
    """Refuse a forward pass that changes parameters behind torch's back, through ``.data``: it is no operation.

    A constraint (a largest norm) or a mask need not show on the net's own weights, so that large random ones are tried,
    in both modes; if the net is not made for such, its own ones.

    Args:
        net: stays as it is, but for its buffers.
        inputs: ``[batch, ...]``, on which the net has run.
        apart: paths of modules that stay what they are, whatever they do to their parameters.

    Raises:
        UserError: another parameter has changed; names it.
    """
    large = copy.deepcopy(net)
    draws = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in large.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * _LARGE)
    try:
        changed = _changed(large, inputs)
    except Exception:  # a forward pass of somebody may raise anything on weights that it is not made for
        changed = _changed(net, inputs)
    for name in changed:
        if not any(name.startswith(f"{path}.") for path in apart):
            raise UserError(
                f"the forward pass of {type(net).__name__} changes its parameter {name} (through .data), which a cut "
                "net would no longer do; compute the changed weight and use it, for example with "
                "torch.nn.utils.parametrize"
            )


def _changed(net: nn.Module, inputs: Tensor) -> list[str]:
    """The parameters that a pass in training mode and one in evaluation mode leave otherwise than they were."""
    # the tensors are held, so that no other one can come to lie in their place
    before = {name: (parameter.data, parameter.clone()) for name, parameter in net.named_parameters()}
    for mode in (True, False):
        outputs(net.train(mode), inputs)
    return [
        name
        for name, parameter in net.named_parameters()
        if parameter.data_ptr() != before[name][0].data_ptr() or not torch.equal(parameter, before[name][1])
    ]
