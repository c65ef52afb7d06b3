"""LAMP: what a channel weighs among those of its layer that are at least as heavy (Lee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PositiveFloat
from prunebench.criteria.scorers import Criterion, Evidence, Subject
from prunebench.errors import UserError
from prunebench.surgery.graph import Layer


def lamp(sizes: Tensor) -> Tensor:
    """size_u / sum of the sizes from u on in ascending order, float64, of the shape of ``sizes`` (equation 3).

    The largest scores 1, so one threshold through all layers empties none; of equal ones the first scores less.

    Args:
        sizes: at least 0: squared weights of a tensor, or any score of the channels of a layer. Zeros score 0.
    """
    values = sizes.detach().double().flatten()
    order = values.argsort(stable=True)
    ascending = values[order]
    heavier = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(values)
    scores[order] = torch.where(ascending > 0, ascending / heavier.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    return scores.view(sizes.shape)


@validated
def lamp_thresholds(weights: Sequence[Tensor], prune_ratio: FractionBelowOne) -> list[Tensor]:
    """For each tensor the absolute value up to which its weights go, scalars: one threshold on all LAMP scores.

    The round(n (1 - prune_ratio)) of the n weights that are not zero yet survive whose scores are best; as many stay in
    each tensor, those of largest absolute value (layer-adaptive-sparsity, tools/pruners.py).

    Raises:
        UserError: every weight is zero.
    """
    scores = [lamp(weight.square()) for weight in weights]
    ranked = torch.cat([score.flatten() for score in scores]).sort(descending=True).values
    num_live = int(torch.count_nonzero(ranked))
    if num_live == 0:
        raise UserError("every weight is zero already; nothing is left to prune")
    num_kept = max(1, round(num_live * (1 - prune_ratio)))
    thresholds = []
    for weight, score in zip(weights, scores, strict=True):
        ascending = weight.detach().abs().flatten().sort().values
        num_gone = int((score < ranked[num_kept - 1]).sum())
        thresholds.append(ascending[num_gone - 1] if num_gone else ascending.new_zeros(()))
    return thresholds


@validated
class Lamp(Criterion):
    """LAMP scores of channels: another criterion's score, to a power, in the place of the squared weight.

    Of layers that share their channels (``coupling=aligned``) the sizes are added first, and the group has one score.

    Args:
        score: the criterion whose scores, at least 0, are the sizes.
        power: to which they are raised; 2 for a norm, whose square is the sum of the squared weights.
    """

    of_group = True

    def __init__(self, *, score: Criterion, power: PositiveFloat = 2.0) -> None:
        self.score = score
        self.power = power

    @property
    def needs_data(self) -> bool:
        return self.score.needs_data

    def refuses(self, layer: Layer) -> str | None:
        return self.score.refuses(layer)

    def prepare(self, net: nn.Module, evidence: Evidence) -> Criterion:
        return Lamp(score=self.score.prepare(net, evidence), power=self.power)

    def __call__(self, subject: Subject) -> Tensor:
        if self.score.of_group:
            return lamp(self._sizes(subject))
        members = [subject.at(name) for name in subject.group]
        scored = [member for member in members if self.score.refuses(member.layer) is None]
        return lamp(torch.stack([self._sizes(member) for member in scored]).sum(0))

    def _sizes(self, subject: Subject) -> Tensor:
        sizes = self.score(subject).double()
        if bool((sizes < 0).any()):
            raise ValueError(f"LAMP ranks sizes, but {type(self.score).__name__} gives negative scores")
        return sizes**self.power
