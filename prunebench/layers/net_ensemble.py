"""Several classifiers as one net, whose prediction is the mean of theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunebench.errors import UserError


class NetEnsemble(nn.Module):
    """ln of the mean of the members' probabilities: a softmax of the output gives that mean.

    One pass runs all members, so that it costs as much as all of them. It is saved and loaded as one net (see
    :mod:`prunebench.nets.package`).

    Args:
        members: nets that give logits ``[batch, classes]``.
        plans: what was cut from each, as canonical JSON, where it is not the same for all; None = the same.

    Raises:
        UserError: no member, or not one plan for each.
    """

    def __init__(self, members: Iterable[nn.Module], *, plans: Sequence[str] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.plans = None if plans is None else tuple(plans)
        if not self.members:
            raise UserError("an ensemble has at least one member, got none")
        if self.plans is not None and len(self.plans) != len(self.members):
            raise UserError(f"an ensemble of {len(self.members)} nets needs as many plans, got {len(self.plans)}")

    def forward(self, x: Tensor) -> Tensor:
        """What each member takes to ``[batch, classes]``, in float32."""
        logs = torch.stack([torch.log_softmax(member(x).float(), dim=-1) for member in self.members])
        return torch.logsumexp(logs, dim=0) - math.log(len(self.members))
