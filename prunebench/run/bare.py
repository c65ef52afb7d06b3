"""A run without folder and training: what follows from nets, settings and a seed alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice
from prunebench.budget.words import in_words
from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted
from prunebench.core.task import Batch, Task, total
from prunebench.data.base import Batches, Data
from prunebench.errors import UserError
from prunebench.layers.memory_format import to_memory_format
from prunebench.measure import cost
from prunebench.measure.latency import is_channels_last
from prunebench.measure.layer_times import LayerTimes
from prunebench.nets.dense_net import DenseNet
from prunebench.nets.net_timing import NetTiming
from prunebench.surgery.equality import Difference, random_inputs, same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero

log = logging.getLogger("prunebench")
T = TypeVar("T")


@dataclass(kw_only=True)
class BareRun:
    """What a method may ask (:class:`prunebench.core.context.Run`), as far as it needs no training.

    It serves to try a method out: phases leave the net as it is, measurements find nothing, values are kept in memory.

    Attributes:
        dense: the net that sizes, speed and accuracies are compared with.
        data, task: what it is trained on, and for.
        schedule, phases, seed: of the run.
        plan: what is cut so far, in channels of ``base``.
        phase: the phase in progress.
        not_pruned, achieved: what the last cut and the extraction have found.
        difference: largest difference of outputs that they have found.
        phase_records, history: one record for each finished phase and epoch.
        pretrained: the dense net's weights came from a checkpoint.
        carry_out: carry cuts out, and compare; else they are only noted.
        times_folder: where measured times of layers are kept; None = in memory.
    """

    dense: DenseNet
    data: Data
    task: Task
    schedule: str
    phases: tuple[Phase, ...]
    seed: int = 0
    plan: Plan = field(default_factory=Plan)
    phase: Phase | None = None
    not_pruned: list[Mapping[str, str]] = field(default_factory=list)
    achieved: dict[str, Any] = field(default_factory=dict)
    difference: float | None = None
    pretrained: bool = False
    phase_records: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    carry_out: bool = True
    times_folder: Path | None = None
    _adopted: DenseNet | None = None
    _values: dict[str, Any] = field(default_factory=dict)

    # -- facts

    @property
    def example(self) -> Tensor:
        """One input: an image ``[1, channels, height, width]`` or a window of symbols ``[1, time]``."""
        return self.dense.example

    @property
    def base(self) -> DenseNet:
        """The net whose channels plans count: the dense net, or the variant of it that a method prunes."""
        return self._adopted or self.dense

    @property
    def template(self) -> nn.Module:
        """An untrained net of ``base``, for shapes and counts."""
        return self.base.template

    @property
    def graph(self) -> ChannelGraph:
        """Channel graph of ``base``."""
        return self.base.graph

    @property
    def device(self) -> torch.device:
        """Where nets are evaluated and timed."""
        return torch.device("cpu")

    @property
    def fraction(self) -> float:
        """Share of the target that the cut in progress must reach; below 1 only in the iterative schedule."""
        return self.phase.fraction if self.phase else 1.0

    def count(self, net: nn.Module) -> cost.Cost:
        """Cost of ``net`` for one sample: an image, or a symbol within a window."""
        return cost.count(net, self.example, samples=self.dense.samples)

    def num_batches(self, phase: Phase) -> int:
        """Batches of one epoch of ``phase`` on one device."""
        return len(self.data.train(epoch=0, seed=self.seed, batch_size=phase.batch_size))

    def steps_per_epoch(self, phase: Phase) -> int:
        """Optimiser steps in one epoch of ``phase``."""
        batches = max(1, int(self.num_batches(phase) * (phase.epoch_share or 1)))
        return -(-batches // phase.accumulate)

    def clock(self) -> Clock:
        """The first step of the phase in progress."""
        assert self.phase is not None
        steps = self.steps_per_epoch(self.phase)
        return Clock.first(num_epochs=self.phase.epochs, steps_per_epoch=steps, lr=self.phase.lr)

    def timing(self, engine: str, batch: int) -> NetTiming:
        """Times of ``base`` and of what plans leave of it; those of layers are kept in ``times_folder``."""
        last = is_channels_last(self.example)
        times = LayerTimes(engine=engine, batch=batch, channels_last=last, folder=self.times_folder)
        return NetTiming(net=self.template, graph=self.graph, example=self.example, times=times)

    # -- nets

    def seed_all(self, purpose: str) -> None:
        """Seed torch's global generator from (seed, purpose)."""
        seed_from(self.seed, purpose)

    def fresh(self, net: nn.Module) -> nn.Module:
        """``net`` with new random weights, drawn as the dense net draws them but for the small layers' own shapes.

        A net with its own rule offers it as ``initialise(net)``; any other net's layers have PyTorch's
        ``reset_parameters``.
        """
        # draws fill a tensor in the order of its memory, which may differ between a net that was measured and one that
        # was read
        net = to_memory_format(copy.deepcopy(net), torch.contiguous_format)
        self.seed_all(f"fresh-{self.phase.name if self.phase else ''}")
        for module in net.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        own = getattr(self.template, "initialise", None)
        if callable(own):
            own(net)
        return net

    def adopt(self, variant: DenseNet) -> nn.Module:
        """Prune ``variant`` (a wider net, say) from now on; returns it with new random weights.

        Everything that the result states relatively stays relative to the dense net.
        """
        self._adopted, self.plan = variant, Plan()
        return variant.fresh("variant")

    def teacher(self, source: str = "dense") -> nn.Module:
        """A trained net, frozen."""
        raise UserError("there is no trained net to learn from: nothing is trained here")

    def probe(self) -> Tensor:
        """Inputs on which nets are compared."""
        return random_inputs(self.example, number=4)

    def outputs(self, net: nn.Module) -> Tensor:
        """What ``net`` gives for ``probe`` in evaluation mode, before the softmax."""
        with torch.no_grad():
            return self.task.outputs(net.cpu().eval(), self.probe())

    def max_abs_diff(self, one: nn.Module, other: nn.Module) -> float:
        """Largest absolute difference of the two nets' outputs in evaluation mode, float32."""
        return float((self.outputs(one) - self.outputs(other)).abs().max())

    # -- data

    def samples(self, purpose: str, number: int) -> Batches:
        """Training samples without augmentation; which ones follows from (seed, purpose)."""
        return self.data.train_eval(number, draw=f"{purpose}/{self.seed}")

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """What training minimises on a batch without any method, a scalar with gradients."""
        return total(self.task.losses(net, batch))

    # -- stored values

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The value ``name``: made the first time."""
        if name not in self._values:
            self._values[name] = make()
        return self._values[name]  # type: ignore[no-any-return]

    def once_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors ``name``: made the first time."""
        return dict(self.once(name, make))

    def choose(self, make: Callable[[], Choice]) -> Choice:
        """The choice of channels of the phase in progress: made once, repeated when the run is resumed."""
        name = self.phase.name if self.phase else ""
        stored = self.once(f"choice-{name}", lambda: _to_plain(make()))
        return Choice(plan=Plan.from_json(stored["plan"]), not_pruned=stored["not_pruned"], achieved=stored["achieved"])

    # -- steps

    def cut(self, net: nn.Module, choice: Choice) -> Extracted:
        """Remove the channels of ``choice`` from ``net`` (dense shapes).

        The zeroed and the shrunk net are compared; a difference beyond float noise is our defect. What the choice
        achieves is counted on the shrunk net.
        """
        log.info("kept channels: %s", _kept(choice.plan, self.graph) or "all")
        found = Extracted(net=net, plan=choice.plan, not_pruned=choice.not_pruned, achieved=choice.achieved)
        if not self.carry_out:
            return found
        compact, difference = self._shrunk(net, choice.plan, self.probe())
        achieved = choice.achieved
        if "target_of" in achieved:  # the sizes were computed from the plan so far
            cost, dense = self.count(compact), self.base.cost
            achieved = budget.counted(achieved, macs=cost.macs / dense.macs, params=cost.params / dense.params)
        return replace(found, net=compact, max_abs_diff=difference.largest, achieved=achieved)

    def rehearse(self, net: nn.Module, choice: Choice) -> None:
        """Try the cut of ``choice`` on ``net`` and forget it; it fails before any training if it ever would."""
        if self.carry_out:
            self._shrunk(net, choice.plan, random_inputs(self.example, number=2))

    def _shrunk(self, net: nn.Module, plan: Plan, inputs: Tensor) -> tuple[nn.Module, Difference]:
        compact = shrink(net, self.graph, plan).cpu().eval()
        zeroed = zero(net, self.graph, plan).cpu().eval()
        return compact, same(zeroed, compact, inputs, self.task.outputs)

    def note(self, found: Extracted) -> nn.Module:
        """Keep what a cut or the extraction has found; returns its net."""
        if found.plan is not None:
            self.plan = found.plan
        if found.not_pruned is not None:
            self.not_pruned = list(found.not_pruned)
        if found.max_abs_diff is not None:
            self.difference = found.max_abs_diff
        self.achieved |= found.achieved
        return found.net

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        """The method is the caller's own here: there is nothing to ask."""
        return net

    def fit(self, net: nn.Module, phase: Phase) -> nn.Module:
        """``net`` as it is."""
        self.phase = phase
        return net

    def validate(self, net: nn.Module) -> dict[str, Any]:
        """Nothing."""
        return {}

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Nothing."""
        return {}

    def measure_dense(self, net: nn.Module) -> None:
        """Nothing."""


def seed_from(seed: int, purpose: str) -> None:
    """Seed torch's global generator from (seed, purpose)."""
    torch.manual_seed(seed * 1_000_003 + int.from_bytes(purpose.encode()[-6:], "big"))


def _kept(plan: Plan, graph: ChannelGraph) -> str:
    """How much each layer keeps, in words."""
    layers = graph.layers
    outputs = [(name, len(plan.keep[name]), layer.out_channels) for name, layer in layers.items() if name in plan.keep]
    reads = [f"{name} reads {len(read)}/{layers[name].in_channels}" for name, read in plan.inputs.items()]
    return ", ".join(filter(None, [in_words(outputs), *reads]))


def _to_plain(choice: Choice) -> dict[str, Any]:
    return {"plan": choice.plan.to_json(), "not_pruned": list(choice.not_pruned), "achieved": dict(choice.achieved)}
