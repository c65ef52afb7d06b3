"""A run in progress: what it trains, cuts and measures, and what makes it resumable.

Each finished step (a phase, a choice of channels, a measurement) is stored in the run's folder. Running again walks
the same way and skips what is stored, so that an interrupted run ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.config.phase import Phase
from prunebench.config.settings import TrainerSettings
from prunebench.core.context import Point
from prunebench.core.method import Method
from prunebench.data.base import Data
from prunebench.disk import artifacts, finished
from prunebench.disk.atomic import sweep, write_bytes
from prunebench.disk.finished import Finished
from prunebench.disk.lock import FolderLock
from prunebench.disk.seal import text_sha256
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.measure.metrics import ACCURACY
from prunebench.nets import package
from prunebench.run import measurement
from prunebench.run.bare import BareRun
from prunebench.surgery.zero import restore

log = logging.getLogger("prunebench")
T = TypeVar("T")


@dataclass(kw_only=True)
class Job(BareRun):
    """One run.

    Attributes:
        method: what acts on the net.
        folder: of the run. ``dense_folder``: of a pretraining phase that other runs may share.
        pretrained: the dense net's weights came from a checkpoint, so that pretraining phases are skipped (where the
            method acts in one, it starts from those weights). ``pretrained_from``: what is known about that file.
        ood: foreign pictures, whose predictions are compared with those of the test set; None = no comparison.
        metrics: stage -> what was measured.
        trained: some phase has been.
        basis: names the weights and choices so far; what is stored is believed only if it belongs to them.
    """

    method: Method
    folder: Path
    settings: TrainerSettings
    dense_folder: Callable[[Phase], Path]
    name: str = "run"
    logger: Mapping[str, Any] = field(default_factory=lambda: {"name": "csv"})
    pretrained: bool = False
    pretrained_from: Mapping[str, Any] | None = None
    ood: Data | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    trained: bool = False
    warnings: list[str] = field(default_factory=list)
    basis: str = ""
    _best: Finished | None = None
    _best_has_method: bool = False
    _watched: bool = False
    _dense_weights: dict[str, Tensor] | None = None

    # -- facts and nets

    @property
    def device(self) -> torch.device:
        """The first of those that train."""
        return self.settings.device

    def num_batches(self, phase: Phase) -> int:
        """Batches of one epoch of ``phase`` on each device; the shortest of several streams ends it."""
        if phase.active and (streams := self.method.streams(self)):
            return min(len(batches(0)) for batches in streams.values())
        devices = self.settings.devices
        return len(self.data.train(epoch=0, seed=self.seed, batch_size=phase.batch_size, world_size=devices))

    def teacher(self, source: str = "dense") -> nn.Module:
        """A trained net, frozen: this run's dense net, or the saved net in another run's folder."""
        if source != "dense":
            folder = Path(source).expanduser()
            # the run's own net is called anyway; what else a folder names must be on the list
            known = package.read_spec(folder).target == self.dense.settings["_target_"]
            net = package.load(folder, trust=known)
        elif self._dense_weights is None:
            raise UserError(
                f"there is no trained dense net to learn from: schedule={self.schedule} has trained none before this "
                "phase; use a schedule that pretrains, model.pretrained, or the folder of a finished run"
            )
        else:
            net = self.dense.fresh("teacher")
            net.load_state_dict(self._dense_weights)
        return self.arrange(net).eval().requires_grad_(False)

    def probe(self) -> Tensor:
        """The first test batch, at most 256 inputs of it."""
        return next(iter(self.data.test()))[0][:256].cpu()

    def arrange(self, net: nn.Module) -> nn.Module:
        """Weights in the memory format of the run: kernels differ in the last bit, and a resumed run must not."""
        if self.settings.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    # -- stored values

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value ``name`` of this run: made and stored the first time, read afterwards."""
        return self._once(name, make)

    def _once(self, name: str, make: Callable[[], T], *beside: Path) -> T:
        return artifacts.once(self.folder / "stored" / f"{name}.json", make, after=self.basis, beside=beside)

    def once_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors ``name`` of this run: made and stored the first time, read afterwards."""
        return artifacts.once_tensors(self.folder / "stored" / f"{name}.safetensors", make, after=self.basis)

    def choose(self, make: Callable[[], Choice]) -> Choice:
        """The choice of channels of the phase in progress; what is stored from now on belongs to it."""
        choice = super().choose(make)
        self.basis = text_sha256(self.basis, choice.plan.to_json())
        return choice

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

    def dense_nonzero(self) -> int:
        """Parameters of the measured dense net that are not exactly 0; all where none was measured in this run."""
        if self._dense_weights is None:
            return self.dense.cost.params
        kept = self._dense_weights
        return sum(int(torch.count_nonzero(kept[name])) for name, _ in self.template.named_parameters())

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        """The cut at the beginning of ``phase``, with the measurements before and after it."""
        self.phase = phase
        if self.plan.keep or self.plan.inputs:
            net = restore(self.template, self.graph, self.plan, net)
        self.achieved = {}
        net = self.note(self.method.prune(net, self))
        self._best = None  # the best epoch is one of the pruned net's
        last = phase is [p for p in self.phases if p.prune][-1]
        if measured and last and (self.trained or self.pretrained):
            self.measure("pruned", net)
        return net

    def extract(self, net: nn.Module) -> nn.Module:
        """The compact net that is measured and saved; what the method has found is noted."""
        return self.note(self.method.extract(net, self))

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
            done = self._finished(net, hooks, phase, folder, cost.training_macs(net, counted))
        artifacts.load_state(done.weights, net=net, method=hooks)
        self.basis = text_sha256(self.basis, tensors_sha256(done.weights))
        self.phase_records.append(dict(done.record))
        self.history += [{"phase": phase.name, **record} for record in done.history]
        self._best = done if done.has_best else None
        self._best_has_method = phase.active
        self.trained = True
        return net

    def _finished(self, net: nn.Module, hooks: Method, phase: Phase, folder: Path, step_macs: int) -> Finished:
        """The finished phase in ``folder``; it is trained unless it is there, whole, and began with this net."""
        sweep(folder)
        parts = {"net": net, "method": hooks}
        state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
        after = tensors_sha256(state)
        if (done := finished.read(folder, after=after)) is not None:
            return done
        self._train(net, hooks, phase, folder, step_macs, after)
        done = finished.read(folder, after=after)
        assert done is not None, f"{folder} does not hold what was just written"
        return done

    def _train(self, net: nn.Module, hooks: Method, phase: Phase, folder: Path, step_macs: int, after: str) -> None:
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
            after=after,
        )

    # -- measurements

    def validate(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the validation split."""
        if not self.data.num_val:
            raise UserError(
                f"{self.data.name} has no validation split, and something is to be decided on one; "
                "set dataset.validation to a number of samples"
            )
        return measurement.on_validation_split(self.arrange(net), self.method, self)

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the test set, stored as ``stage``.

        Stages: ``dense``, ``before_cut``, ``pruned``, ``final``, ``test_best_val``, and ``saved_net``: one prediction
        of the net that is saved, where ``final`` is the mean of several.
        """
        return self.measure_under(self.method, stage, net)

    def measure_under(self, method: Method, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` as ``method`` predicts with it."""

        def evaluate_now() -> dict[str, Any]:
            metrics, found = measurement.on_test_set(self.arrange(net), method, self, ood=self.ood)
            if found is not None:
                artifacts.save_predictions(self.predictions(stage), found.probs, found.labels, found.scores())
            return {"split": "test", **metrics}

        self.metrics[stage] = metrics = self._once(f"metrics-{stage}", evaluate_now, self.predictions(stage))
        log.info("%s: test %s", stage, self.task.headline(metrics))
        self._watch(stage, metrics)
        return metrics

    def repeat(self, stage: str, *, of: str) -> dict[str, Any]:
        """The measurement ``of`` counts as ``stage`` too: it is the same net."""

        def copy_now() -> dict[str, Any]:
            if self.predictions(of).exists():
                write_bytes(self.predictions(stage), self.predictions(of).read_bytes())
            return self.metrics[of]

        self.metrics[stage] = self._once(f"metrics-{stage}", copy_now, self.predictions(stage))
        return self.metrics[stage]

    def measure_best(self, net: nn.Module) -> None:
        """Measure ``net`` and the method as they were after the last phase's epoch that was best on validation.

        Nothing happens if there is no such epoch: no validation split, or nothing was trained since the last cut.
        """
        if self._best is None:
            return
        method = self.method
        last = {name: value.clone() for name, value in method.state_dict().items()}
        best = copy.deepcopy(net)
        artifacts.load_state(self._best.best(), net=best, method=method if self._best_has_method else None)
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
        metrics, _ = measurement.on_test_set(self.arrange(point.net), self.method, self, ood=self.ood)
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
        validated = [record[ACCURACY.logged] for record in self.history if ACCURACY.logged in record]
        text = measurement.chance(metrics, self.data.num_classes, validated[-1] if validated else None)
        if text is not None:
            self.warn([f"the {'final' if stage == 'final' else 'dense'} net {text}"])

    def warn(self, sentences: Iterable[str]) -> None:
        """Say ``sentences`` loudly, now and in the result."""
        for sentence in sentences:
            self.warnings.append(sentence)
            log.warning("warning: %s", sentence)

    def predictions(self, stage: str) -> Path:
        """Where the predictions of a measured stage are, if its task keeps them."""
        return self.folder / "stored" / f"predictions-{stage}.npz"
