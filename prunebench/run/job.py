"""A run in progress: what a method may ask for (:class:`prunebench.core.context.Run`), and what makes it resumable.

Each finished step (a phase, a choice of channels, a measurement) is stored in the run's folder. Running again walks
the same way and skips what is stored, so that an interrupted run ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.config.phase import Phase
from prunebench.config.settings import TrainerSettings
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches, Data
from prunebench.disk import artifacts
from prunebench.disk.atomic import read_json
from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.nets import package
from prunebench.nets.dense_net import DenseNet
from prunebench.run import measurement
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero

log = logging.getLogger("prunebench")
T = TypeVar("T")


@dataclass(kw_only=True)
class Job:
    """One run.

    Attributes:
        build: makes a net with random weights from settings of the config group ``model``.
        model: the settings of the dense net.
        method: what acts on it.
        folder: of the run. ``dense_folder``: of a pretraining phase that other runs may share.
        pretrained: the dense net's weights came from a checkpoint, so that pretraining phases are skipped (where the
            method acts in one, it starts from those weights).
        ood: foreign pictures, whose predictions are compared with those of the test set; None = no comparison.
        plan: what is cut so far, in channels of ``base``.
        phase: the phase in progress.
        not_pruned, achieved: what the last cut and the extraction have found.
        metrics: stage -> what was measured.
    """

    build: Callable[[Mapping[str, Any]], nn.Module]
    model: Mapping[str, Any]
    method: Method
    data: Data
    task: Task
    schedule: str
    phases: tuple[Phase, ...]
    seed: int
    folder: Path
    settings: TrainerSettings
    dense_folder: Callable[[Phase], Path]
    name: str = "run"
    logger: Mapping[str, Any] = field(default_factory=lambda: {"name": "csv"})
    pretrained: bool = False
    ood: Data | None = None
    plan: Plan = field(default_factory=lambda: Plan({}))
    phase: Phase | None = None
    not_pruned: list[Mapping[str, str]] = field(default_factory=list)
    achieved: dict[str, Any] = field(default_factory=dict)
    max_abs_diff_of_cut: float | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    phase_records: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    trained: bool = False
    warnings: list[str] = field(default_factory=list)
    _best_weights: Path | None = None
    _best_has_method: bool = False
    _watched: bool = False
    _adopted: DenseNet | None = None
    _dense_weights: dict[str, Tensor] | None = None

    # -- facts

    @cached_property
    def example(self) -> Tensor:
        """One input: an image ``[1, channels, height, width]`` or a window of symbols ``[1, time]``."""
        return self.data.example()

    @cached_property
    def dense(self) -> DenseNet:
        """The net that sizes, speed and accuracies are compared with."""
        samples = self.data.samples_per_example
        return DenseNet(self.model, make=self._make, example=self.example, samples=samples)

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
        return self.settings.device

    @property
    def fraction(self) -> float:
        """Share of the target that the cut in progress must reach; below 1 only in the iterative schedule."""
        return self.phase.fraction if self.phase else 1.0

    def count(self, net: nn.Module) -> cost.Cost:
        """Cost of ``net`` for one sample: an image, or a symbol within a window."""
        return cost.count(net, self.example, samples=self.data.samples_per_example)

    def steps_per_epoch(self, phase: Phase) -> int:
        """Optimiser steps in one epoch of ``phase``."""
        devices = self.settings.devices
        epochs = [self.data.train(epoch=0, seed=self.seed, batch_size=phase.batch_size, world_size=devices)]
        if phase.active and (streams := self.method.streams(self)):
            epochs = [batches(0) for batches in streams.values()]
        num_batches = max(1, int(min(len(batches) for batches in epochs) * (phase.epoch_share or 1)))
        return -(-num_batches // phase.accumulate)

    def clock(self) -> Clock:
        """The first step of the phase in progress."""
        assert self.phase is not None
        steps = self.steps_per_epoch(self.phase)
        return Clock.first(num_epochs=self.phase.epochs, steps_per_epoch=steps, lr=self.phase.lr)

    # -- nets

    def fresh_dense(self, purpose: str) -> nn.Module:
        """A dense net with new random weights: a function of (seed, purpose)."""
        return self.dense.fresh(purpose)

    def _make(self, settings: Mapping[str, Any], purpose: str) -> nn.Module:
        self.seed_all(purpose)
        return self.build(settings)

    def seed_all(self, purpose: str) -> None:
        """Seed torch's global generator from (seed, purpose)."""
        torch.manual_seed(self.seed * 1_000_003 + int.from_bytes(purpose.encode()[-6:], "big"))

    def fresh(self, net: nn.Module) -> nn.Module:
        """``net`` with new random weights, drawn as the dense net draws them but for the small layers' own shapes.

        A net with its own rule offers it as ``initialise(net)``; any other net's layers have PyTorch's
        ``reset_parameters``.
        """
        net = copy.deepcopy(net)
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
        self._adopted, self.plan = variant, Plan({})
        return variant.fresh("variant")

    def teacher(self, source: str = "dense") -> nn.Module:
        """A trained net, frozen: this run's dense net, or the saved net in another run's folder."""
        if source != "dense":
            net = package.load(Path(source).expanduser())
        elif self._dense_weights is None:
            raise UserError(
                f"there is no trained dense net to learn from: schedule={self.schedule} has trained none before this "
                "phase; use a schedule that pretrains, model.pretrained, or the folder of a finished run"
            )
        else:
            net = self.fresh_dense("teacher")
            net.load_state_dict(self._dense_weights)
        return self.arrange(net).eval().requires_grad_(False)

    def max_abs_diff(self, one: nn.Module, other: nn.Module) -> float:
        """Largest absolute difference of the two nets' outputs on the first test batch, eval mode, float32."""
        return measurement.difference(one, other, self)[0]

    def arrange(self, net: nn.Module) -> nn.Module:
        """Weights in the memory format of the run: kernels differ in the last bit, and a resumed run must not."""
        if self.settings.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    # -- data

    def samples(self, purpose: str, number: int) -> Batches:
        """Training samples without augmentation; which ones follows from (seed, purpose)."""
        return self.data.train_eval(number, draw=f"{purpose}/{self.seed}")

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """What training minimises on a batch without any method, a scalar with gradients."""
        return torch.stack(list(self.task.losses(net, batch).values())).sum()

    # -- stored values

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value ``name`` of this run: made and stored the first time, read afterwards."""
        return artifacts.once(self.folder / "stored" / f"{name}.json", make)

    def once_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors ``name`` of this run: made and stored the first time, read afterwards."""
        return artifacts.once_tensors(self.folder / "stored" / f"{name}.safetensors", make)

    def choose(self, make: Callable[[], Choice]) -> Choice:
        """The choice of channels of the phase in progress: made once, repeated when the run is resumed."""
        assert self.phase is not None
        stored = self.once(f"choice-{self.phase.name}", lambda: _choice_to_plain(make()))
        return Choice(plan=Plan.from_json(stored["plan"]), not_pruned=stored["not_pruned"], achieved=stored["achieved"])

    # -- steps

    def measure_dense(self, net: nn.Module) -> None:
        """Measure ``net`` if it is trained, by us or by others, and still whole.

        It is the dense baseline (``dense``) only if no method has had a hand in its training; else it is what the
        method has made of the whole net (``before_cut``), and the baseline is another run's (``method=none``).
        """
        settings = [record["settings"] for record in self.phase_records]
        if not (all(phase["pretrain"] for phase in settings) and (self.trained or self.pretrained)):
            return
        if any(phase["active"] for phase in settings):
            self.measure("before_cut", net)
        else:
            self._dense_weights = {name: value.clone() for name, value in net.state_dict().items()}
            self.measure("dense", net)

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        """The cut at the beginning of ``phase``, with the measurements before and after it."""
        self.phase = phase
        if self.plan.keep or self.plan.inputs:
            net = restore(self.template, self.graph, self.plan, net)
        found = self.method.prune(net, self)
        self.achieved = {}
        self._note(found)
        self._best_weights = None  # the best epoch is one of the pruned net's
        last = phase is [p for p in self.phases if p.prune][-1]
        if measured and last and (self.trained or self.pretrained):
            self.measure("pruned", found.net)
        return found.net

    def cut(self, net: nn.Module, choice: Choice) -> Extracted:
        """Remove the channels of ``choice`` from ``net`` (dense shapes).

        The zeroed and the shrunk net are compared on real inputs; a difference beyond float noise is our defect.
        """
        zeroed = zero(net, self.graph, choice.plan)
        compact = shrink(net, self.graph, choice.plan)
        difference, scale = measurement.difference(zeroed, compact, self)
        assert difference <= 1e-4 * max(1.0, scale), f"shrunk net differs from zeroed net by {difference}"
        kept = [
            f"{layer} {len(keep)}/{self.graph.layers[layer].out_channels}" for layer, keep in choice.plan.keep.items()
        ]
        kept += [
            f"{layer} reads {len(read)}/{self.graph.layers[layer].in_channels}"
            for layer, read in choice.plan.inputs.items()
        ]
        log.info("kept channels: %s", ", ".join(kept) if kept else "all")
        return Extracted(
            net=compact,
            plan=choice.plan,
            not_pruned=choice.not_pruned,
            achieved=choice.achieved,
            max_abs_diff=difference,
        )

    def extract(self, net: nn.Module) -> nn.Module:
        """The compact net that is measured and saved; what the method has found is noted."""
        found = self.method.extract(net, self)
        self._note(found)
        return found.net

    def _note(self, found: Extracted) -> None:
        """Keep what a cut or the extraction has found."""
        if found.plan is not None:
            self.plan = found.plan
        if found.not_pruned is not None:
            self.not_pruned = list(found.not_pruned)
        if found.max_abs_diff is not None:
            self.max_abs_diff_of_cut = found.max_abs_diff
        self.achieved |= found.achieved

    def fit(self, net: nn.Module, phase: Phase) -> nn.Module:
        """Train ``net`` through ``phase``, or load the outcome if the phase is finished.

        Raises:
            UserError: the loss became infinite, or another process writes to the folder.
        """
        self.phase, method = phase, self.method
        if phase.epochs == 0 or (phase.pretrain and self.pretrained and not phase.active):
            return net
        if phase.fresh:
            net = method.fresh(net, self)
        if phase.active:
            net = method.attach(net, self)
        self.arrange(net)
        counted = self.count(net)
        if phase.equal_compute:
            phase = phase.stretched(self.dense.cost.macs, counted.macs)
        hooks = method if phase.active else Method()
        folder = self.dense_folder(phase) if phase.shared else self.folder / "phases" / phase.name
        with FolderLock(folder, wait=True) if phase.shared else nullcontext():
            if not (folder / "phase.json").exists():
                self._train(net, hooks, phase, folder, cost.training_macs(net, counted))
        artifacts.load_tensors(folder / "weights.safetensors", net=net, method=hooks)
        done = read_json(folder / "phase.json")
        self.phase_records.append(done["record"])
        self.history += [{"phase": phase.name, **record} for record in done["history"]]
        best = folder / "best.safetensors"
        self._best_weights = best if best.exists() else None
        self._best_has_method = phase.active
        self.trained = True
        return net

    def _train(self, net: nn.Module, hooks: Method, phase: Phase, folder: Path, step_macs: int) -> None:
        from prunebench.training.train_phase import train_phase  # takes seconds; a one-shot run never needs it

        train_phase(
            net,
            hooks,
            phase=phase,
            task=self.task,
            data=self.data,
            streams=hooks.streams(self),
            seed=self.seed,
            step_macs=step_macs,
            settings=self.settings,
            logger=self.logger,
            run_name=self.name,
            run_folder=self.folder,
            folder=folder,
        )

    # -- measurements

    def validate(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the validation split."""
        if not self.data.num_val:
            raise UserError(
                f"{self.data.name} has no validation split, and something is to be decided on one; "
                "set dataset.validation to a number of samples"
            )
        return measurement.on_validation_split(self.arrange(net), self)

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the test set, stored as ``stage``.

        Stages: ``dense``, ``before_cut``, ``pruned``, ``final``, ``test_best_val``, and ``saved_net``: one prediction
        of the net that is saved, where ``final`` is the mean of several.
        """
        return self.measure_under(self.method, stage, net)

    def measure_under(self, method: Method, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` as ``method`` predicts with it."""

        def evaluate_now() -> dict[str, Any]:
            metrics, found = measurement.on_test_set(self.arrange(net), method, self)
            if found is not None:
                artifacts.save_predictions(self.predictions(stage), found.probs, found.labels, found.scores())
            return {"split": "test", **metrics}

        self.metrics[stage] = metrics = self.once(f"metrics-{stage}", evaluate_now)
        log.info("%s: test %s", stage, self.task.headline(metrics))
        self._watch(stage, metrics)
        return metrics

    def repeat(self, stage: str, *, of: str) -> dict[str, Any]:
        """The measurement ``of`` counts as ``stage`` too: it is the same net."""
        self.metrics[stage] = self.once(f"metrics-{stage}", lambda: self.metrics[of])
        if self.predictions(of).exists():
            self.predictions(stage).write_bytes(self.predictions(of).read_bytes())
        return self.metrics[stage]

    def measure_best(self, net: nn.Module) -> None:
        """Measure ``net`` and the method as they were after the last phase's epoch that was best on validation.

        Nothing happens if there is no such epoch: no validation split, or nothing was trained since the last cut.
        """
        if self._best_weights is None:
            return
        method = self.method
        last = {name: value.clone() for name, value in method.state_dict().items()}
        best = copy.deepcopy(net)
        artifacts.load_tensors(self._best_weights, net=best, method=method if self._best_has_method else None)
        self.measure("test_best_val", best)
        method.load_state_dict(last)

    def measure_points(self, net: nn.Module) -> list[dict[str, Any]]:
        """What each further operating point of the trained net costs and predicts."""
        found = []
        for point in self.method.points(net, self):
            measured = self.once(f"point-{point.name}", partial(self._measure_point, point))
            log.info("%s: test %s", point.name, self.task.headline(measured["metrics"]))
            found.append(measured)
        return found

    def _measure_point(self, point: Point) -> dict[str, Any]:
        metrics, _ = measurement.on_test_set(self.arrange(point.net), self.method, self)
        counted = self.count(point.net).to_dict()
        return {
            "name": point.name,
            "settings": dict(point.settings),
            "metrics": {"split": "test", **metrics},
            "cost": {key: value for key, value in counted.items() if key != "per_layer"},
        }

    def _watch(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Warn if the whole net, or the final one where no whole net was measured, has learned nothing."""
        if stage not in ("dense", "before_cut", "final") or self._watched:
            return
        self._watched = True
        validated = [record["val/accuracy"] for record in self.history if "val/accuracy" in record]
        text = measurement.chance(metrics, self.data.num_classes, validated[-1] if validated else None)
        if text is not None:
            self.warnings.append(f"the {'final' if stage == 'final' else 'dense'} net {text}")
            log.warning("warning: %s", self.warnings[-1])

    def predictions(self, stage: str) -> Path:
        """Where the predictions of a measured stage are, if its task keeps them."""
        return self.folder / "stored" / f"predictions-{stage}.npz"


def _choice_to_plain(choice: Choice) -> dict[str, Any]:
    return {
        "plan": choice.plan.to_json(),
        "not_pruned": list(choice.not_pruned),
        "achieved": dict(choice.achieved),
    }
