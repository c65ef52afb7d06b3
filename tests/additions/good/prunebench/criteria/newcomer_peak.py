"""A criterion from weights alone: the largest weight of each filter."""

from __future__ import annotations

from torch import Tensor

from prunebench.criteria.scorers import Criterion, Subject
from prunebench.surgery.graph import Layer


def peak(weight: Tensor) -> Tensor:
    """Largest absolute weight of each filter, ``[out, in, ...] -> [out]``."""
    return weight.detach().abs().flatten(1).amax(1)


class Peak(Criterion):
    """The largest absolute weight of a filter."""

    def refuses(self, layer: Layer) -> str | None:
        return "grouped filters share their inputs" if layer.kind == "grouped" else None

    def __call__(self, subject: Subject) -> Tensor:
        return peak(subject.weight)
