"""The parameters and buffers of a net as one safetensors file: no pickle, and tied weights stored once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunebench.disk.tensors import from_sealed, to_sealed
from prunebench.errors import UserError


def to_bytes(net: nn.Module) -> bytes:
    """The state dict of ``net`` as a safetensors file that holds its checksum; of tied tensors, the first name."""
    tied = _tied(net)
    # views of one buffer that differ (slices of a fused weight) must not be refused: each is stored in full
    return to_sealed({name: tensor for name, tensor in net.state_dict().items() if name not in tied})


def file_bytes(net: nn.Module) -> int:
    """Size in bytes of the safetensors file with the net's parameters and buffers."""
    return len(to_bytes(net))


def read_into(net: nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into ``net``, in place; each name and shape must agree.

    Raises:
        UserError: the file is missing or damaged, or its tensors are not those of the net.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; a saved net needs it")
    try:
        stored, same, _ = from_sealed(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error}); write it again") from None
    if same is False:
        raise UserError(f"{path} is damaged: its tensors do not fit the checksum beside them; write it again")
    tied = _tied(net)
    expected = {name: list(t.shape) for name, t in net.state_dict().items() if name not in tied}
    found = {name: list(tensor.shape) for name, tensor in stored.items()}
    names = expected.keys() | found.keys()
    if wrong := sorted(name for name in names if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise UserError(
            f"{path} does not fit the net: {len(wrong)} tensors differ, the first is {name!r} with shape "
            f"{found.get(name, 'none')} in the file and {expected.get(name, 'none')} in the net"
        )
    if same is None:
        _check_numbers(stored, path)
    target = net.state_dict()
    with torch.no_grad():
        for name, tensor in stored.items():
            target[name].copy_(tensor)


def _check_numbers(stored: Mapping[str, Tensor], path: Path) -> None:
    """Refuse numbers that no training leaves, in a file without a checksum: nothing else would notice them."""
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path} is damaged: {name} holds values that are not finite; write it again")
        if name.rpartition(".")[2] == "running_var" and (tensor < 0).any():
            raise UserError(f"{path} is damaged: {name} holds negative variances; write it again")


def _tied(net: nn.Module) -> set[str]:
    """Names in the state dict whose tensor already has an earlier name."""
    seen: set[tuple[object, ...]] = set()
    tied = set()
    for name, tensor in net.state_dict().items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            tied.add(name)
        seen.add(key)
    return tied
