"""Nets whose closed layers, with several matrices in one or a matrix the other way round, are made of linear layers.

A person's net may have torch's multi-head attention, or layers of other libraries, whose weights no criterion and no
surgery knows. They are replaced as the net is built, by layers that compute the same; weights of the net as it was
written still fit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from prunebench.layers.head_attention import HeadAttention
from prunebench.layers.rewritten import Rewritten
from prunebench.layers.transposed_linear import TransposedLinear

_OPEN = (HeadAttention, TransposedLinear)


def opened(net: nn.Module) -> nn.Module:
    """The net with layers that can be cut in place of closed ones, in place; the net itself may be one."""
    made: dict[int, nn.Module] = {}  # a layer that is used in two places stays one
    for path, module in list(net.named_modules(remove_duplicate=False)):
        kind = next((kind for kind in _OPEN if kind.fits(module)), None)
        if kind is None:
            continue
        new = made.setdefault(id(module), kind(module))
        if not path:
            return new
        net.set_submodule(path, new)
    if made:
        for module in net.modules():
            if isinstance(module, nn.TransformerEncoder):  # its kernel for padded batches reads the closed layers
                module.use_nested_tensor = False
    return net


def written_state(net: nn.Module) -> dict[str, Tensor]:
    """The net's state dict under the names and in the shapes of the net before it was :func:`opened`."""
    state = dict(net.state_dict())
    for prefix, module in _open_layers(net):
        module.to_written(state, prefix)
    return state


def own_state(net: nn.Module, written: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as :func:`written_state` has it, under the names and in the shapes of ``net``."""
    state = dict(written)
    for prefix, module in _open_layers(net):
        module.from_written(state, prefix)
    return state


def _open_layers(net: nn.Module) -> list[tuple[str, Rewritten]]:
    found = net.named_modules(remove_duplicate=False)
    return [(f"{path}." if path else "", module) for path, module in found if isinstance(module, Rewritten)]
