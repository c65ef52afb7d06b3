"""The norm of all that a channel owns in the layers that must give it up together (DepGraph, Fang et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveFloat
from prunebench.criteria.norms import by_channel
from prunebench.criteria.scorers import Criterion, Subject
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.steps import PerChannel, Step


def group_norm(parts: Sequence[Tensor], *, order: float = 2.0) -> Tensor:
    """Mean over the parts of the sum of |w|^order, ``[channels]``, float64 (section 3.3).

    Args:
        parts: what the channels own in one place each, ``[channels, ...]``: filters, scales, slices of a reader.
        order: of the norm, which is not rooted.
    """
    sums = [part.detach().double().flatten(1).abs().pow(order).sum(1) for part in parts]
    return torch.stack(sums).mean(0)


def relative(scores: Tensor) -> Tensor:
    """Scores ``[channels]`` divided by their mean, so that those of different groups can be compared."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


@validated
class GroupNorm(Criterion):
    """Importance of a channel of a coupled group: its filter in each writer, its scale in each norm, its slice in each
    reader, one part each.

    The group is the layer alone with ``coupling=free`` (its own norms and readers, up to the first addition), and all
    layers that meet in an addition with ``aligned``. Depthwise convolutions in between are parts too, readers behind a
    concatenation or a padding are not: their channels have other numbers.

    Args:
        order: p of the norm.
        biases: whether biases of writers and norms are parts as well.
        normaliser: "mean" divides by the mean over the channels of the group, "none" leaves the sums.
    """

    of_group = True

    def __init__(
        self,
        *,
        order: PositiveFloat = 2.0,
        biases: bool = False,
        normaliser: Annotated[str, Among(("mean", "none"))] = "mean",
    ) -> None:
        self.order = order
        self.biases = biases
        self.normaliser = normaliser

    def __call__(self, subject: Subject) -> Tensor:
        parts = dict(self._parts(subject))  # by name: a module that is called twice counts once
        scores = group_norm(list(parts.values()), order=self.order)
        return relative(scores) if self.normaliser == "mean" else scores

    def _parts(self, subject: Subject) -> Iterator[tuple[str, Tensor]]:
        """What the channels of the subject's group own, ``[channels, ...]``, by a name for each place."""
        graph, group, width = subject.graph, set(subject.group), subject.layer.out_channels
        for step in graph.steps:
            weight: Tensor | None = subject.parameters.get(f"{step.module}.weight")
            if weight is None:
                continue
            if step.module in graph.layers:
                weight = graph.layers[step.module].by_outputs(weight)
            read = set(graph.writers[step.inputs[0]]) if step.inputs else set()
            reads = bool(read) and read <= group
            if step.module in group or (reads and _keeps_channels(step, graph)):
                yield step.module, weight.reshape(width, -1)
                bias = subject.parameters.get(f"{step.module}.bias")
                if self.biases and bias is not None:
                    yield f"{step.module}.bias", bias.reshape(width, -1)
            if reads and step.module in graph.layers and not _keeps_channels(step, graph):
                yield f"{step.module} reads", by_channel(weight, width).transpose(0, 1)


def _keeps_channels(step: Step, graph: ChannelGraph) -> bool:
    """Whether a step works on each channel that it is given by itself: a norm, a depthwise convolution."""
    if isinstance(step, PerChannel):
        return step.is_norm
    return step.module in graph.layers and graph.layers[step.module].kind == "depthwise"
