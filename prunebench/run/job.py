"""A run in progress: what it trains, cuts and measures, and what makes it resumable.

Each finished step (a phase, a choice of channels, a measurement) is stored in the run's folder. Running again walks
the same way and skips what is stored, so that an interrupted run ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.config.phase import Phase
from prunebench.core.distilled import Distilled, Teacher, trains_dense
from prunebench.core.method import Method
from prunebench.disk import artifacts, finished
from prunebench.disk.atomic import sweep
from prunebench.disk.finished import Finished
from prunebench.disk.lock import FolderLock
from prunebench.disk.paths import user_path
from prunebench.disk.seal import text_sha256
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.nets import package
from prunebench.nets.quantize import StaticInt8
from prunebench.run import suits
from prunebench.run.measured import MeasuredRun
from prunebench.surgery.zero import restore

log = logging.getLogger("prunebench")
T = TypeVar("T")


@dataclass(kw_only=True)
class Job(MeasuredRun):
    """One run.

    Attributes:
        dense_folder: of a pretraining phase that other runs may share.
        pretrained_from: what is known about the checkpoint of a ``pretrained`` net, whose pretraining phases are
            skipped (where the method acts in one, it starts from those weights).
        trained: some phase has been.
        integers: quantises the exported nets at the end; None = they are not exported.
        listens_to: whom the net learns from in phases that are no pretraining; None = from nobody.
    """

    dense_folder: Callable[[Phase], Path]
    name: str = "run"
    logger: Mapping[str, Any] = field(default_factory=lambda: {"name": "csv"})
    integers: StaticInt8 | None = None
    pretrained_from: Mapping[str, Any] | None = None
    trained: bool = False
    listens_to: Teacher | None = None
    _best: Finished | None = None
    _best_hooks: Method | None = None
    _dense_weights: dict[str, Tensor] | None = None

    # -- facts and nets

    def num_batches(self, phase: Phase) -> int:
        """Batches of one epoch of ``phase`` on each device; the shortest of several streams ends it."""
        if phase.active and (streams := self.method.streams(self)):
            return min(len(batches(0)) for batches in streams.values())
        devices = self.settings.devices
        return len(self.data.train(epoch=0, seed=self.seed, batch_size=phase.batch_size, world_size=devices))

    def teacher(self, source: str = "dense") -> nn.Module:
        """A trained net, frozen: this run's dense net, or the saved net in another run's folder."""
        if source != "dense":
            folder = user_path(source)
            # the run's own net is called anyway; what else a folder names must be on the list
            known = package.read_spec(folder).target == self.dense.settings["_target_"]
            net = package.load(folder, trust=known)
        elif not self.dense_measured:
            raise UserError(
                f"there is no trained dense net to learn from: schedule={self.schedule} has trained none before this "
                "phase; use a schedule that pretrains, model.pretrained, or the folder of a finished run"
            )
        else:
            net = self.dense_net()
        return self.arrange(net).eval().requires_grad_(False)

    def check_teacher(self) -> None:
        """Refuse, before anything is trained, a teacher that will not be there or is none for these data.

        Raises:
            UserError: the data are for no classification, no dense net will be trained, or the saved net does not fit.
        """
        if self.listens_to is None:
            return
        suits.check_teacher(self.listens_to, self)
        mine = self.listens_to.folder is None
        if mine and not trains_dense(self.phases, pretrained=self.pretrained):  # it would have been refused otherwise
            log.info("no dense net is trained, so that the net learns without a teacher")
            self.listens_to = None

    def _with_teacher(self, hooks: Method, phase: Phase) -> Method:
        """``hooks``, and around them the teacher where it is heard in ``phase``."""
        asked = self.listens_to
        if asked is None or phase.pretrain or not hooks.hears_teacher(phase):
            return hooks
        return Distilled(hooks, self.teacher(asked.source), weight=asked.weight, temperature=asked.temperature)

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
        self.measure("before_cut" if any(phase["active"] for phase in settings) else "dense", net)

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the test set, stored as ``stage``; the dense net is remembered."""
        if stage == "dense":
            self._dense_weights = {name: value.clone() for name, value in net.state_dict().items()}
        return super().measure(stage, net)

    @property
    def dense_measured(self) -> bool:
        """Whether there was a trained dense net that no method has touched."""
        return self._dense_weights is not None

    def dense_net(self) -> nn.Module:
        """The dense net as it was measured; where none was, one with random weights."""
        net = self.dense.fresh("teacher")
        if self._dense_weights is not None:
            net.load_state_dict(self._dense_weights)
        return net

    def dense_nonzero(self) -> int:
        """Parameters of the measured dense net that are not exactly 0; all where none was measured in this run."""
        if self._dense_weights is None:
            return self.dense.cost.params
        kept = self._dense_weights
        return sum(int(torch.count_nonzero(kept[name])) for name, _ in self.dense.template.named_parameters())

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
        hooks = self._with_teacher(method if phase.active else Method(), phase)
        folder = self.dense_folder(phase) if phase.shared else self.folder / "phases" / phase.name
        with FolderLock(folder, wait=True) if phase.shared else nullcontext():
            done = self._finished(net, hooks, phase, folder, cost.training_macs(net, counted))
        artifacts.load_state(done.weights, net=net, method=hooks)
        self.basis = text_sha256(self.basis, tensors_sha256(done.weights))
        self.phase_records.append(dict(done.record))
        self.history += [{"phase": phase.name, **record} for record in done.history]
        self._best = done if done.has_best else None
        self._best_hooks = hooks if phase.active else None
        self.trained = True
        return net

    def _finished(self, net: nn.Module, hooks: Method, phase: Phase, folder: Path, step_macs: int) -> Finished:
        """The finished phase in ``folder``; it is trained unless it is there, whole, and began with this net."""
        sweep(folder)
        parts = {"net": net, "method": hooks}
        state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
        # a phase of other settings may have begun with the same tensors; the name of a shared folder tells its settings
        after = text_sha256(folder.parent.name if phase.shared else self.basis, tensors_sha256(state))
        if isinstance(hooks, Distilled):
            after = text_sha256(after, tensors_sha256(hooks.teacher.state_dict()))
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
            teacher_macs=self.count(hooks.teacher).macs if isinstance(hooks, Distilled) else None,
            settings=self.settings,
            logger=self.logger,
            run_name=self.name,
            run_folder=self.folder,
            folder=folder,
            after=after,
        )

    def measure_best(self, net: nn.Module) -> None:
        """Measure ``net`` and the method as they were after the last phase's epoch that was best on validation.

        Nothing happens if there is no such epoch: no validation split, or nothing was trained since the last cut.
        """
        if self._best is None:
            return
        method = self.method
        last = {name: value.clone() for name, value in method.state_dict().items()}
        best = copy.deepcopy(net)
        artifacts.load_state(self._best.best(), net=best, method=self._best_hooks)
        self.measure("test_best_val", best)
        method.load_state_dict(last)
