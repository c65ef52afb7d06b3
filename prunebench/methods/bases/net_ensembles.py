"""Results that are several nets: which is the best, what all of them cost, how far they can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.core.context import Run
from prunebench.core.task import Batch
from prunebench.data.base import Batches
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.measure import cost, reliability
from prunebench.measure.metrics import NLL
from prunebench.methods.bases.gated_units import own_parameters

Predict = Callable[[nn.Module, Batch], Tensor]
"""A net and a batch -> probabilities ``[S, batch, classes]``."""


def nets_of(net: nn.Module) -> list[nn.Module]:
    """The members of an ensemble, or the net alone."""
    return list(net.members) if isinstance(net, NetEnsemble) else [net]


def best_net(net: NetEnsemble, run: Run) -> int:
    """Index of the member with the lowest NLL on the validation split."""
    losses = [run.validate(member)[NLL.key] for member in net.members]
    return losses.index(min(losses))


def cost_of_all(net: nn.Module, run: Run) -> dict[str, Any] | None:
    """What the counts of an ensemble are beside those of one of its nets (a mean, if they differ)."""
    if not isinstance(net, NetEnsemble):
        return None
    each = [cost.count(member, run.example) for member in net.members]
    return {
        "num_nets": len(each),
        "macs_one_net": round(sum(one.macs for one in each) / len(each)),
        "params_one_net": round(sum(one.params for one in each) / len(each)),
        "macs_all_predictions": cost.count(net, run.example).macs,
    }


@torch.no_grad()
def reliability_after_cut(
    net: nn.Module, predict: Predict, run: Run, *, names: Sequence[str], zeros: bool
) -> Mapping[str, Any]:
    """What :mod:`prunebench.measure.reliability` says of a pruned net beside the dense one.

    Args:
        net: on ``run.device``.
        names: weight tensors that are compared with the dense net's.
        zeros: weights of 0 are gone.
    """
    samples, labels = _predictions(net, predict, run.data.test())
    found = reliability.summarise(samples, labels)
    if run.data.num_val:
        held_out, known = _predictions(net, predict, run.data.validation())
        found["error_limit"] = reliability.error_limit(held_out.mean(0), known)
    dense = run.teacher().to(run.device)
    before = torch.cat([run.task.probabilities(dense, batch) for batch in run.data.test()]).cpu()
    found |= reliability.functional_loss(before, samples.mean(0))
    own = [own_parameters(member) for member in nets_of(net)]
    found["weights"] = {}
    for name in names:
        left = torch.cat([parameters[name].flatten() for parameters in own])
        left = left[left != 0] if zeros else left
        number = max(1, left.numel() // len(own))
        found["weights"][name] = reliability.distribution_loss(left, dense.get_parameter(name), number)
    return found


def _predictions(net: nn.Module, predict: Predict, batches: Batches) -> tuple[Tensor, Tensor]:
    """Probabilities ``[S, N, classes]`` and labels ``[N]``, on the CPU."""
    found = [(predict(net, batch).cpu(), batch[1].cpu()) for batch in batches]
    return torch.cat([probs for probs, _ in found], dim=1), torch.cat([labels for _, labels in found])
