"""Activation functions that a net can be built with, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from prunebench.config.ranges import Among

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Only the sigmoid does not map 0 to 0: behind it a removed unit is the constant 1/2."""
Activation = Annotated[str, Among(ACTIVATIONS)]
