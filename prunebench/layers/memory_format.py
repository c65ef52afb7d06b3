"""Memory format of a whole net."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def to_memory_format(net: Net, memory_format: torch.memory_format) -> Net:
    """``net`` itself, its weights ``[out, in, k, k]`` laid out in ``memory_format``; those of other ranks stay."""
    tensors = [*net.parameters(), *net.buffers()]
    if memory_format is torch.channels_last and any(tensor.dim() == 5 for tensor in tensors):
        for tensor in tensors:  # torch would lay out weights [out, in, k, k, k] too, for which this format has no place
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=memory_format)
        return net
    net.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's annotations lack it
    return net
