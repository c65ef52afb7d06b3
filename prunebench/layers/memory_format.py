"""Memory format of a whole net."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def to_memory_format(net: Net, memory_format: torch.memory_format) -> Net:
    """``net`` itself, its weights ``[out, in, k, k]`` laid out in ``memory_format``."""
    net.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's annotations lack it
    return net
