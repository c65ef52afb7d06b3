"""What training under attack minimises: losses of pictures as they are and attacked, and how far features move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from prunebench.core.task import Batch, Task, total
from prunebench.measure.vulnerability import distance, features
from prunebench.methods.bases.attacked_batches import Attacker


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One of the paper's settings.

    Attributes:
        masks: units have masks. ``attacked``: trained on attacked pictures too. ``suppressed``: features must not move.
        gaussian: weights have a Gaussian posterior. ``pretrained``: a pretraining is needed.
    """

    masks: bool = False
    attacked: bool = False
    suppressed: bool = False
    gaussian: bool = False
    pretrained: bool = False


MODES: Mapping[str, Mode] = {
    "standard": Mode(),
    "bp": Mode(masks=True),
    "at": Mode(attacked=True),
    "at_vs": Mode(attacked=True, suppressed=True),
    "at_bnn": Mode(attacked=True, gaussian=True),
    "pretrained_at": Mode(attacked=True, pretrained=True),
    "anp": Mode(masks=True, attacked=True),
    "anp_vs": Mode(masks=True, attacked=True, suppressed=True),
}


def passes(
    net: nn.Module, batch: Batch, task: Task, mode: Mode, *, attacker: Attacker | None, latent: Sequence[str]
) -> dict[str, Tensor]:
    """What both losses are made of, as far as the mode has it.

    The loss of a batch as it is, ``clean``, of the pictures under attack, ``attacked``, and how far features ``moved``.

    Args:
        batch: pictures and labels.
        attacker: needed where the mode attacks.
        latent: paths of the modules whose outputs are the features.
    """
    attacked = None
    if mode.attacked:
        assert attacker is not None, "attach comes first"
        attacked = attacker(net, batch, task)
    inputs, labels = batch
    before: list[Tensor] = []
    after: list[Tensor] = []

    def watched(kept: list[Tensor]) -> AbstractContextManager[None]:
        return features(net, kept.append, latent) if mode.suppressed else nullcontext()

    with watched(before):
        found = {"clean": total(task.losses(net, (inputs, labels)))}
    if attacked is not None:
        with watched(after):
            found["attacked"] = total(task.losses(net, (attacked, labels)))
    if mode.suppressed:
        found["moved"] = distance(before, after)
    return found


def weight_terms(found: Mapping[str, Tensor], *, adversarial_weight: float, suppression: float) -> dict[str, Tensor]:
    """The loss of the weights, term by term.

    Args:
        found: of :func:`passes`, perhaps with ``kl``.
        adversarial_weight: of the attacked pictures beside the clean ones.
        suppression: weight of what features move.
    """
    share = adversarial_weight / (1 + adversarial_weight) if "attacked" in found else 0.0
    terms = {"ce": (1 - share) * found["clean"]}
    if "attacked" in found:
        terms["ce_attacked"] = share * found["attacked"]
    if "kl" in found:
        terms["kl"] = found["kl"]
    if "moved" in found:
        terms["vulnerability"] = suppression * found["moved"]
    return terms


def mask_terms(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of the masks, term by term: attacked pictures where there are any."""
    return {"ce": found.get("attacked", found["clean"]), "kl": found["kl"]}
