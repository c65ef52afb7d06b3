"""What modules that work on each channel by themselves hold for a channel."""

from __future__ import annotations

import torch
from torch import nn


def channel_dim(shape: torch.Size, width: int) -> int | None:
    """The dimension of ``width`` channels of a tensor that is one number for each; None for any other tensor."""
    long = [place for place, size in enumerate(shape) if size != 1]
    return long[0] if len(long) == 1 and shape[long[0]] == width else None


def set_channels(module: nn.Module, number: int) -> None:
    """Make what a norm or activation of torch, or a subclass, says of its channels fit; others are left as they are."""
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU)):
        for name in ("num_features", "num_parameters", "num_channels", "num_groups"):
            if hasattr(module, name):
                setattr(module, name, number)


def dead_value(name: str) -> float:
    """What a tensor of this name holds for a dead channel: a variance of 0 would make an infinite scale."""
    return 1.0 if name == "running_var" else 0.0
