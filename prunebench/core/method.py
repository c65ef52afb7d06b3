"""What one paper changes: a strategy object with hooks, each with a harmless default.

Everything a method learns or counts is a parameter or a buffer, so that each checkpoint is complete.
A method never holds the net it works on: the net travels through the hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.param_groups import split_decay
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches
from prunebench.errors import UserError, nearest
from prunebench.surgery.narrow import Narrowed

ALL_SCHEDULES = frozenset({"finetune", "oneshot", "iterative", "scratch", "scratch_e", "scratch_b", "simultaneous"})
NET = "net"
"""Name of the optimiser that a method has if it says nothing else, and of the first training stream."""


class Minimise(Protocol):
    """What ``update`` is given to move weights with."""

    def __call__(self, terms: Mapping[str, Tensor], optimizer: str = NET) -> None:
        """Gradients of the sum of ``terms`` for the parameters of one optimiser, clipped, and a step of it.

        Precision, accumulation and the learning rate are those of the phase; with ``accumulate`` the step is made
        with the last of so many batches.
        """


class Method(nn.Module):
    """The base of all methods, and the method ``none``: train, change nothing.

    The order of the calls in one run::

        check                     before anything is trained
        run                       the phases of the schedule, in order; for each
          prune                     if the phase begins with a cut
          attach, streams           if the method is active in the phase, before the optimiser exists
          start_epoch
            losses (or update)        each batch
            before_step, after_step   each step
          end_epoch, report         after the last step, BEFORE validation and the checkpoint
        extract                   the compact net that is measured
        points, conclude          further nets that are measured like the final one, and what follows from all of them
      before_measure            once a measurement (dense, pruned, final, best epoch), then ``predict`` for each batch,
                                then ``metrics``
    """

    schedules: frozenset[str] = ALL_SCHEDULES
    sizes_given: bool = True
    """Whether configuration and net say how many channels of each layer go; False where trained weights decide."""
    layers: Sequence[str] = ("*",)
    """Which layers it may cut: names and globs; a single word = it finds them itself."""
    narrows: ClassVar[bool] = False
    """Whether the net's tensors change their shapes while it trains, which several devices do not follow."""
    objective: ClassVar[str] = "map"
    """What training minimises: ``map`` = NLL plus the L2 prior of weight decay, ``elbo``, ``regularised_heuristic``."""

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        """Refuse, before any training, what cannot work.

        Args:
            net: the untrained dense net.
            run: the run.

        Raises:
            UserError: the schedule is not supported, a target is out of reach, a name matches no layer.
        """
        if run.schedule not in self.schedules:
            allowed = ", ".join(sorted(self.schedules))
            raise UserError(
                f"schedule={run.schedule} is not supported by this method; use one of: {allowed}"
                f"{nearest(run.schedule, self.schedules)}"
            )
        if all(phase.pretrain for phase in run.phases):
            raise UserError(
                f"schedule={run.schedule} has only its pretraining left, so that nothing would be pruned; keep the "
                "phase that cuts, take schedule=oneshot for a cut without training, or method=none for training alone"
            )
        if type(self) is not Method and run.schedule != "simultaneous" and not any(phase.prune for phase in run.phases):
            raise UserError(
                f"no phase of schedule={run.schedule} begins with a cut, so that nothing would be pruned; set "
                "schedule.phases.<name>.prune=true for one of them, or take method=none"
            )

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        """Walk through the schedule's phases; override it for a search that has its own order.

        Args:
            net: the dense net, with fresh or pretrained weights.
            run: gives ``phases``, ``prune``, ``fit``, ``measure``; a finished phase is skipped inside ``fit``.

        Returns:
            The trained net, before ``extract``.
        """
        for phase in run.phases:
            if phase.active or not phase.pretrain:
                run.measure_dense(net)
            if phase.prune:
                net = run.prune(net, phase)
            net = run.fit(net, phase)
        return net

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        """Swap layers or add gates before the optimiser exists. Called again on resume: must be idempotent."""
        return net

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        """Choose with weights or data and cut; ``net`` always has the dense net's shapes.

        Returns:
            The zeroed or the shrunk net. A choice goes through ``run.once`` so that a resumed run repeats it.
        """
        return Extracted(net=net)

    def cut_sizes(self, net: nn.Module, run: Run) -> Extracted:
        """A cut that leaves as many channels as ``prune`` does, whichever: to count a net where there are no data."""
        return self.prune(net, run)

    def fresh(self, net: nn.Module, run: Run) -> nn.Module:
        """``net`` (after the cut) with new random weights, for phases that train from scratch."""
        return run.fresh(net)

    def hears_teacher(self, phase: Phase) -> bool:
        """Whether the run's teacher, if it has one, is heard in ``phase``, which is no pretraining.

        False in a search that only looks for a structure and keeps none of its weights.
        """
        return True

    # -- optimisation

    @property
    def alternates(self) -> bool:
        """Whether ``update`` is the method's own, so that it moves the weights itself."""
        return type(self).update is not Method.update

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        """Optimiser groups of ``net`` (and of the method); ``phase.decay_norm=false`` spares 1-d parameters.

        A group's own keys win over the phase's: ``lr``, ``weight_decay``, ``momentum``, ``nesterov``, ``betas``,
        ``maximize``, and ``optimizer`` (sgd, adam, adamw), which may be another one than the rest's. ``clip=False``
        leaves it out of ``clip_norm``, ``lr_schedule="constant"`` keeps its rate.
        """
        return split_decay([p for p in net.parameters() if p.requires_grad], phase)

    def optimizers(self, net: nn.Module, phase: Phase) -> Mapping[str, list[dict[str, Any]]]:
        """Groups of each optimiser, by name; more than one only for a method that has its own ``update``."""
        return {NET: self.param_groups(net, phase)}

    def streams(self, run: Run) -> Mapping[str, Callable[[int], Batches]]:
        """Training streams, name -> batches of an epoch; ``net`` replaces the run's own.

        With any, ``update`` is given a batch of each, by name; the shortest one ends the epoch.
        """
        return {}

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        """Named scalar terms; their sum is minimised and each is logged."""
        return task.losses(net, batch)

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        """What is done with a batch; override it, and only then, to alternate losses or optimisers.

        A method that overrides it calls ``minimise`` for each optimiser in turn.

        Args:
            batches: the batch of each stream; without ``streams`` that of ``net`` alone.

        Returns:
            Named scalar terms to log.
        """
        terms = self.losses(net, batches[NET], task)
        minimise(terms)
        return terms

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        """Gradients are ready, the optimiser (each one, if there are several) has not stepped."""

    def after_step(self, net: nn.Module, clock: Clock) -> Sequence[Narrowed] | None:
        """The weights have moved, by the step ``clock.step``.

        Returns:
            The parameters that have lost entries in place, if any: the optimiser's state loses the same.
        """
        return None

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        """Before the first batch of an epoch, also of one that is resumed."""

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        """After the last batch and before validation, so that a checkpoint holds the weights its metric measured."""

    def report(self, net: nn.Module) -> Mapping[str, float]:
        """Numbers of interest at the end of an epoch, after ``end_epoch``; logged as ``method/<name>``."""
        return {}

    def spent_macs(self) -> int | None:
        """Multiply-accumulates of all training so far, where the net's size changes in it; None: it stays the same."""
        return None

    def selectable(self, net: nn.Module) -> bool:
        """Whether the weights at the end of this epoch may become the best on validation.

        False while the sparsity that grows in training has not reached its target: the best epoch would be the least
        pruned one.
        """
        return True

    # -- afterwards

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        """The compact net that is measured, and the plan that leads to it from the dense net."""
        return Extracted(net=net)

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        """Further operating points of the trained net, made one after the other and each measured like the final one.

        Args:
            net: as it was trained, before ``extract``.
        """
        return ()

    def conclude(self, points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Facts for the result (``budget``) that follow from all ``points`` together.

        Args:
            points: as the result has them: ``name``, ``settings``, ``metrics``, ``cost``.
        """
        return {}

    def stored_posterior(self, net: nn.Module, state: Mapping[str, Tensor], run: Run) -> nn.Module | None:
        """The distribution over weights that this method had learned by the end of a phase of another run.

        Args:
            net: an untrained net of ``run``, dense shapes.
            state: ``net.*`` and ``method.*``, as they were stored; from anybody.

        Returns:
            A net with Gaussian layers in evaluation mode; None if there is no such distribution in ``state``.

        Raises:
            UserError: it is one of another net, or cannot be written with Gaussian layers.
        """
        return None

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        """What ``predict`` is given, instead of ``net``, for each batch of one measurement on ``run.device``.

        For predictions by several nets: they are drawn once here, from a generator seeded by (``run.seed``, purpose),
        so that a measurement depends neither on the batches nor on what was computed before. What is returned is
        dropped afterwards and is no state of the run; validation during training does not pass here.
        """
        return net

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        """Probabilities ``[samples, batch, classes]``; one sample for a deterministic net."""
        return task.probabilities(net, batch)[None]

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        """Further numbers of a measurement, stored as ``metrics.<stage>.method``.

        Args:
            net: what ``predict`` was given, on ``run.device``.
        """
        return {}

    def cost(self, net: nn.Module, run: Run) -> Mapping[str, Any] | None:
        """Fields that replace the counted cost, where it depends on the input or on a number of samples."""
        return None


def match_layers(patterns: Iterable[str], names: Iterable[str], *, what: str) -> list[str]:
    """Layer names matched by glob ``patterns``, in the order of ``names``.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{what}: '{pattern}' matches no layer{nearest(pattern, names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
