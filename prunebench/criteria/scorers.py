"""Criteria as objects, for configuration files: each looks at one layer and calls the pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from prunebench.budget.counts import prune_floor
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, FractionBelowOne
from prunebench.criteria import activation_moments, filters, norms
from prunebench.data.base import Batches
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph, Layer


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a criterion may look at.

    Attributes:
        layer: its place in the net.
        weight: ``[out, in, ...]``.
        beta, gamma: bias and weight of the norm layer that follows directly, ``[out]``; None without one.
        readers: weights of the layers that read its channels.
        live_inputs: its input channels that the layers before keep; None = all.
        generator: for criteria that draw.
        group: the layers that have one set of channels with it, itself included; alone with ``coupling=free``.
        graph, parameters: the whole net, for criteria that look further than one layer.
    """

    layer: Layer
    weight: Tensor
    beta: Tensor | None
    gamma: Tensor | None
    readers: tuple[Tensor, ...]
    live_inputs: Sequence[int] | None
    generator: torch.Generator
    group: tuple[str, ...]
    graph: ChannelGraph
    parameters: Mapping[str, nn.Parameter]

    def at(self, name: str) -> Subject:
        """The same of another layer."""
        return _subject(name, self.graph, self.parameters, self.generator, group=self.group)


class Evidence(Protocol):
    """What a criterion may ask about data."""

    @property
    def device(self) -> torch.device:
        """Where nets are evaluated."""

    @property
    def graph(self) -> ChannelGraph:
        """Channel graph of the net."""

    def samples(self, purpose: str, number: int) -> Batches:
        """Training samples without augmentation; which ones follows from the run's seed and ``purpose``."""

    def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What training minimises on a batch without any method, a scalar with gradients."""


class Criterion:
    """One layer -> one score per output channel; low scores go first."""

    norm_ratio: float = 0.0
    """Share of the channels that goes by norm before the rest is ranked (FPGM-mix)."""
    in_order: bool = False
    """Whether the scores of a layer depend on what the layers before it keep."""
    of_group: bool = False
    """Whether the scores are those of all of ``Subject.group``, so that they count once for it."""
    among_layers: str = "mean"
    """What makes its scores comparable among layers with sets of their own, see
    :func:`prunebench.budget.units.comparable`."""
    num_samples: int = 0
    """Training samples that ``prepare`` asks for."""

    def refuses(self, layer: Layer) -> str | None:
        """Why a layer has no score, None if it has one."""
        return None

    def prepare(self, net: nn.Module, evidence: Evidence) -> Criterion:
        """The criterion with what it needs to know of ``net`` beyond one layer: activations, gradients.

        Called once before a cut. Override it for scores that depend on data; the answer is a new object, so that the
        criterion itself stays what its configuration says.

        Args:
            net: with the dense net's shapes; it must come back as it was.
            evidence: training samples and the loss.
        """
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the scores depend on more than the weights."""
        return type(self).prepare is not Criterion.prepare

    def __call__(self, subject: Subject) -> Tensor:
        """Scores, ``[out]``."""
        raise NotImplementedError


@validated
class FilterNorm(Criterion):
    """L1 (Li et al. 2017) or L2 norm (He et al. 2018, SFP) of the filters.

    Args:
        order: 1 or 2.
        strategy: "independent" counts all input channels; "greedy" leaves out those that the layers before have lost
            (Li et al., section 3.3; for order 1).
    """

    among_layers = "ranks"

    def __init__(
        self,
        *,
        order: Annotated[int, Among((1, 2))],
        strategy: Annotated[str, Among(("independent", "greedy"))] = "independent",
    ) -> None:
        self.order = order
        self.in_order = strategy == "greedy"
        if self.in_order and order != 1:
            raise UserError("method.criterion.strategy=greedy is defined for the L1 norm; set method.criterion.order=1")

    def __call__(self, subject: Subject) -> Tensor:
        if self.order == 2:
            return filters.l2_norm(subject.weight)
        return filters.l1_norm(subject.weight, live_inputs=subject.live_inputs)


@validated
class GeometricMedian(Criterion):
    """Sum of distances to the layer's other filters (FPGM), a share of them by norm first (FPGM-mix).

    Args:
        norm_ratio: share of each layer's filters that goes by norm, in [0, 1); part of the prune ratio, not added.
    """

    among_layers = "ranks"

    def __init__(self, *, norm_ratio: FractionBelowOne = 0.0) -> None:
        self.norm_ratio = float(norm_ratio)

    def __call__(self, subject: Subject) -> Tensor:
        return filters.mixed(subject.weight, num_by_norm=prune_floor(len(subject.weight), self.norm_ratio))


@validated
class BatchNormStatistic(Criterion):
    """A closed-form statistic of the activation, from the batch norm that follows (Oh et al. 2022).

    Args:
        statistic: one of ``norms.STATISTICS``.
    """

    def __init__(self, *, statistic: Annotated[str, Among(norms.STATISTICS)]) -> None:
        self.statistic = statistic

    def refuses(self, layer: Layer) -> str | None:
        if layer.norm is None:
            return "no norm layer follows"
        if not layer.norm_learns:
            return "the norm layer that follows has no learned scale and shift"
        if self.statistic != "gamma" and layer.activation not in activation_moments.ACTIVATIONS:
            return f"there is no closed form for the activation {layer.activation}"
        if norms.needs_readers(self.statistic) and not layer.readers:
            return f"the statistic {self.statistic} needs a layer that reads it before an addition"
        return None

    def __call__(self, subject: Subject) -> Tensor:
        assert subject.beta is not None and subject.gamma is not None, "refused above"
        return norms.bn_importance(
            self.statistic,
            subject.beta,
            subject.gamma,
            activation=None if self.statistic == "gamma" else subject.layer.activation,
            slope=subject.layer.slope,
            readers=subject.readers,
        )


class Random(Criterion):
    """Chance: the control that a criterion must beat."""

    def __call__(self, subject: Subject) -> Tensor:
        return filters.random(len(subject.weight), subject.generator)


def look_at(
    name: str,
    net: nn.Module,
    graph: ChannelGraph,
    generator: torch.Generator,
    *,
    live_inputs: Sequence[int] | None = None,
    group: tuple[str, ...] = (),
) -> Subject:
    """What a criterion may look at of layer ``name`` of ``net``, which has the dense net's shapes.

    Args:
        group: the layers that share its channels; empty = it has its own.
    """
    parameters = dict(net.named_parameters())
    return _subject(name, graph, parameters, generator, live_inputs=live_inputs, group=group or (name,))


def _subject(
    name: str,
    graph: ChannelGraph,
    parameters: Mapping[str, nn.Parameter],
    generator: torch.Generator,
    *,
    live_inputs: Sequence[int] | None = None,
    group: tuple[str, ...],
) -> Subject:
    layer = graph.layers[name]
    return Subject(
        layer=layer,
        weight=layer.by_outputs(parameters[f"{name}.weight"]),
        beta=parameters.get(f"{layer.norm}.bias"),
        gamma=parameters.get(f"{layer.norm}.weight"),
        readers=tuple(graph.layers[reader].by_outputs(parameters[f"{reader}.weight"]) for reader in layer.readers),
        live_inputs=live_inputs,
        generator=generator,
        group=group,
        graph=graph,
        parameters=parameters,
    )
