"""The optimiser of a phase."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from prunebench.config.phase import Phase


def build_optimizer(phase: Phase, groups: list[dict[str, Any]]) -> Optimizer:
    """The phase's optimiser over ``groups``; a group's own keys (``weight_decay``, ``lr``, ``maximize``) win."""
    if phase.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=phase.lr,
            momentum=phase.momentum,
            nesterov=phase.nesterov,
            weight_decay=phase.weight_decay,
        )
    adam = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, lr=phase.lr, weight_decay=phase.weight_decay)
