"""What a method may ask of the run that it is in, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.budget.by_cost import Timing
from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches, Data
from prunebench.nets.dense_net import DenseNet
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """A net, and what was found on the way to it.

    Attributes:
        net: zeroed, shrunk, or with other layers.
        plan: the channels that stay, in those of ``run.base``; None = what was cut before.
        not_pruned: ``{"layer", "reason"}`` of what stays whole; None = nothing new is known.
        achieved: facts for the result, beside those of earlier steps: with ``target`` and ``reached`` the run checks
            that the target was met (within ``tolerance``).
        max_abs_diff: largest difference of outputs to the net before; None = not compared.
    """

    net: nn.Module
    plan: Plan | None = None
    not_pruned: Sequence[Mapping[str, str]] | None = None
    achieved: Mapping[str, Any] = field(default_factory=dict)
    max_abs_diff: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One operating point of a trained net: a width, a pruned share, a bit width.

    Attributes:
        name: unique within the run.
        net: what is measured, as the final net is.
        settings: what tells the point from the others, plain data.
    """

    name: str
    net: nn.Module
    settings: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """One run in progress, as its method sees it. Nothing is assigned to it: what a hook finds out it returns.

    Attributes:
        schedule: name of the schedule; ``phases``: its phases in order.
        data, task: what the net is trained on, and for.
        seed: of the run.
    """

    schedule: str
    phases: tuple[Phase, ...]
    data: Data
    task: Task
    seed: int

    # -- facts

    @property
    def phase(self) -> Phase | None:
        """The phase in progress; None before the first one."""

    @property
    def fraction(self) -> float:
        """Share of the target that the cut in progress must reach; below 1 only in the iterative schedule."""

    @property
    def device(self) -> torch.device:
        """Where nets are evaluated and timed."""

    @property
    def dense(self) -> DenseNet:
        """The net that sizes, speed and accuracies are compared with."""

    @property
    def base(self) -> DenseNet:
        """The net whose channels plans count: the dense net, or the variant of it that the method prunes."""

    @property
    def template(self) -> nn.Module:
        """An untrained net of ``base``, for shapes and counts."""

    @property
    def graph(self) -> ChannelGraph:
        """Channel graph of ``base``."""

    @property
    def example(self) -> Tensor:
        """One input: an image ``[1, channels, height, width]`` or a window of symbols ``[1, time]``."""

    @property
    def plan(self) -> Plan:
        """What is cut so far, in channels of ``base``."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One record for each finished epoch: ``phase``, ``epoch``, loss terms, validation metrics."""

    @property
    def phase_records(self) -> Sequence[Mapping[str, Any]]:
        """One record for each finished phase, as in the result."""

    def steps_per_epoch(self, phase: Phase) -> int:
        """Optimiser steps in one epoch of ``phase``."""

    def clock(self) -> Clock:
        """The first step of the phase in progress."""

    def timing(self, engine: str, batch: int) -> Timing:
        """Times of ``base`` and of what plans leave of it, in a program on this machine's CPU, for one batch size."""

    # -- nets

    def seed_all(self, purpose: str) -> None:
        """Seed torch's global generator from (seed, purpose)."""

    def fresh(self, net: nn.Module) -> nn.Module:
        """A copy of ``net`` with new random weights."""

    def adopt(self, variant: DenseNet) -> nn.Module:
        """Prune ``variant`` from now on; returns it with new random weights. Comparisons stay with ``dense``."""

    def teacher(self, source: str = "dense") -> nn.Module:
        """A trained net, frozen and in evaluation mode: this run's dense net, or the saved net of another run's folder.

        Raises:
            UserError: this run has trained no dense net, or the folder has no net.
        """

    def max_abs_diff(self, one: nn.Module, other: nn.Module) -> float:
        """Largest absolute difference of the two nets' outputs on test inputs, eval mode, float32."""

    # -- data

    def samples(self, purpose: str, number: int) -> Batches:
        """Training samples without augmentation; which ones follows from (seed, purpose).

        Raises:
            UserError: there are fewer.
        """

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """What training minimises on a batch without any method, a scalar with gradients."""

    # -- stored values: made the first time, read when the run is resumed

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value ``name`` of this run."""

    def once_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors ``name`` of this run."""

    def choose(self, make: Callable[[], Choice]) -> Choice:
        """The choice of channels of the phase in progress."""

    # -- steps

    def cut(self, net: nn.Module, choice: Choice) -> Extracted:
        """``net`` (dense shapes) without the channels that ``choice`` leaves out, compared with the zeroed net."""

    def rehearse(self, net: nn.Module, choice: Choice) -> None:
        """Try the cut of ``choice`` on ``net`` before anything is trained."""

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        """The cut at the beginning of ``phase``: the method's ``prune``, with the measurements before and after it."""

    def fit(self, net: nn.Module, phase: Phase) -> nn.Module:
        """``net`` trained through ``phase``, which may be one that the method made; loaded if it is finished."""

    def validate(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the validation split.

        Raises:
            UserError: there is none.
        """

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the test set, stored as ``stage``."""

    def measure_dense(self, net: nn.Module) -> None:
        """Measure ``net`` as the dense baseline if it is trained and still whole."""
