"""The optimiser of a phase: one of torch's, or several side by side where groups ask for different ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunebench.config.phase import OPTIMIZERS, Phase, lr_factor
from prunebench.data.base import Data
from prunebench.errors import UserError
from prunebench.surgery.narrow import Narrowed

KIND, SCHEDULE = "optimizer", "lr_schedule"
"""Keys of a group that torch's optimisers do not know."""


def build_optimizer(phase: Phase, groups: Sequence[Mapping[str, Any]]) -> Optimizer:
    """The phase's optimiser over ``groups``; a group's own keys (``weight_decay``, ``lr``, ``maximize``) win.

    Groups with ``optimizer`` of another kind than the phase's get an optimiser of that kind beside it.
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        kind = group.get(KIND, phase.optimizer)
        assert kind in OPTIMIZERS, f"a parameter group asks for optimizer={kind}"
        kinds.setdefault(kind, []).append({key: value for key, value in group.items() if key != KIND})
    members = [_one(kind, phase, own) for kind, own in kinds.items()]
    return members[0] if len(members) == 1 else SideBySide(members)


def _one(kind: str, phase: Phase, groups: list[dict[str, Any]]) -> Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(
            groups,
            lr=phase.lr,
            momentum=phase.momentum,
            nesterov=phase.nesterov,
            weight_decay=phase.weight_decay,
        )
    adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return adam(groups, lr=phase.lr, weight_decay=phase.weight_decay)


def build_rate(phase: Phase, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each group at each step; groups with ``lr_schedule="constant"`` keep theirs."""

    def moving(step: int) -> float:
        return lr_factor(phase, step, steps_per_epoch)

    def constant(step: int) -> float:
        return 1.0

    groups = optimizer.param_groups
    return LambdaLR(optimizer, [constant if group.get(SCHEDULE) == "constant" else moving for group in groups])


def hold_rates(optimizers: list[Optimizer], phase: Phase, data: Data) -> list[Optimizer]:
    """``optimizers`` that keep the first rate of each group for :func:`scale_rates`.

    Raises:
        UserError: there is nothing to follow.
    """
    where = f"schedule.phases.{phase.name}.lr_schedule={phase.lr_schedule}"
    if data.task != "classification":
        raise UserError(f"{where} follows the NLL of a classifier, and {data.name} is none's; use another schedule")
    if not data.num_val:
        raise UserError(
            f"{where} follows the NLL on the validation split, and {data.name} has none; "
            "set dataset.validation to a number of samples"
        )
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def scale_rates(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Set the rate of each group to ``factor`` times its first one; constant groups keep theirs."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if group.get(SCHEDULE) != "constant":
            group["lr"] = group["initial_lr"] * factor


class SideBySide(Optimizer):
    """Optimisers of different kinds that step together and look like one.

    Lightning trains with one optimiser unless a training step alternates them; so plain SGD for gates beside Adam for
    weights is one to it.

    Args:
        members: each with parameters of its own.
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = list(members)
        super().__init__([p for member in members for group in member.param_groups for p in group["params"]], {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all members: the same objects, so that a rate set here is theirs."""
        return [group for member in self.members for group in member.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        """Nothing: torch's constructor begins with an empty list."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Nothing: the members have their parameters."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        for member in self.members:
            member.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for member, state in zip(self.members, cast(list[dict[str, Any]], state_dict["members"]), strict=True):
            member.load_state_dict(state)


def clip(optimizer: Optimizer, max_norm: float | None) -> None:
    """Scale the gradients to a global norm of ``max_norm`` at most, without groups that have ``clip=False``."""
    if max_norm:
        clipped = [p for group in optimizer.param_groups if group.get("clip", True) for p in group["params"]]
        nn.utils.clip_grad_norm_(clipped, max_norm)


def narrow_state(optimizer: Optimizer, narrowed: Narrowed) -> None:
    """Take what a parameter has lost out of its momenta and moments; counters of steps stay."""
    for member in optimizer.members if isinstance(optimizer, SideBySide) else [optimizer]:
        state = member.state.get(narrowed.parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and tuple(value.shape) == narrowed.before:
                state[name] = narrowed.take(value)


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All that ``optimizer`` moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]
