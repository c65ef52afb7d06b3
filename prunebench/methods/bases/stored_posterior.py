"""The posterior of any finished run whose method has learned one, as a net with Gaussian layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from prunebench.core.context import Run
from prunebench.errors import UserError
from prunebench.methods.bases.gaussian_nets import gaussian_layers, settled
from prunebench.methods.bases.ranked_weights import RankedWeights
from prunebench.methods.bases.stored_states import OPTION, method_of, phase_states


@dataclass(frozen=True)
class StoredPosterior:
    """What another run has learned.

    Attributes:
        net: with Gaussian layers, dense shapes, evaluation mode, on the CPU.
        moments: layer -> second moments of the gradients of its means, ``[n]``; empty where the run has kept none.
    """

    net: nn.Module
    moments: dict[str, Tensor]


def read_posterior(folder: str, net: nn.Module, run: Run) -> StoredPosterior:
    """The posterior in a run folder: that of its first phase that has one, before any cut.

    The folder may be a stranger's: its tensors are safetensors, its settings build only methods of this package.

    Args:
        net: an untrained net of ``run``.

    Raises:
        UserError: no finished run, one that has learned no posterior, or one of another net.
    """
    source = method_of(folder)
    for state in phase_states(folder):
        found = source.stored_posterior(net, state, run)
        if found is not None:
            return StoredPosterior(settled(found, run.graph), _moments(source, found, state))
    raise UserError(
        f"{OPTION}={folder} is a run that has learned no distribution over weights, or does not keep it "
        "(phases/<name>/weights.safetensors); give one of a variational method, for example method=bbb"
    )


def _moments(source: object, found: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    stored = state.get("method.fisher")
    if stored is None or not isinstance(source, RankedWeights):
        return {}
    sizes = {name: layer.weight.numel() for name, layer in gaussian_layers(found).items() if name in source.pruned}
    if stored.shape != (sum(sizes.values()),):
        raise UserError(f"{OPTION}: its second moments are {list(stored.shape)}, not those of its layers")
    return dict(zip(sizes, stored.split(list(sizes.values())), strict=True))
