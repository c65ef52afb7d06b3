"""What one paper changes: a strategy object with hooks, each with a harmless default.

Everything a method learns or counts is a parameter or a buffer, so that each checkpoint is complete.
A method never holds the net it works on: the net travels through the hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from prunebench.errors import UserError, nearest
from prunebench.surgery.plan import Plan

if TYPE_CHECKING:
    from prunebench.config.phase import Phase
    from prunebench.core.task import Batch, Task
    from prunebench.run.job import Job

ALL_SCHEDULES = frozenset({"finetune", "oneshot", "iterative", "scratch", "scratch_e", "scratch_b", "simultaneous"})


class Method(nn.Module):
    """The base of all methods, and the method ``none``: train, change nothing.

    The order of the calls in one run::

        check                     before anything is trained
        run                       the phases of the schedule, in order; for each
          prune                     if the phase begins with a cut
          attach                    if the method is active in the phase, before the optimiser exists
          start_epoch
            losses, before_step, after_step      each step
          end_epoch, report         after the last step, BEFORE validation and the checkpoint
        extract                   the compact net that is measured
      before_measure            once a measurement (dense, pruned, final, best epoch), then ``predict`` for each batch
    """

    schedules: frozenset[str] = ALL_SCHEDULES
    sizes_given: bool = True
    """Whether configuration and net say how many channels of each layer go; False where trained weights decide."""
    objective: ClassVar[str] = "map"
    """What training minimises: ``map`` = NLL plus the L2 prior of weight decay, ``elbo``, ``regularised_heuristic``."""

    def check(self, net: nn.Module, job: Job) -> None:
        """Refuse, before any training, what cannot work.

        Args:
            net: the untrained dense net.
            job: the run.

        Raises:
            UserError: the schedule is not supported, a target is out of reach, a name matches no layer.
        """
        if job.schedule not in self.schedules:
            allowed = ", ".join(sorted(self.schedules))
            raise UserError(
                f"schedule={job.schedule} is not supported by this method; use one of: {allowed}"
                f"{nearest(job.schedule, self.schedules)}"
            )

    def run(self, net: nn.Module, job: Job) -> nn.Module:
        """Walk through the schedule's phases; override it for a search that has its own order.

        Args:
            net: the dense net, with fresh or pretrained weights.
            job: gives ``phases``, ``fit``, ``measure``; a finished phase is skipped inside ``fit``.

        Returns:
            The trained net, before ``extract``.
        """
        for phase in job.phases:
            if phase.active or not phase.pretrain:
                job.measure_dense(net, self)
            if phase.prune:
                net = job.prune(net, phase, self)
            net = job.fit(net, phase, self)
        return net

    def attach(self, net: nn.Module, job: Job) -> nn.Module:
        """Swap layers or add gates before the optimiser exists. Called again on resume: must be idempotent."""
        return net

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        """Choose with weights or data and cut; ``net`` always has the dense net's shapes.

        Returns:
            The zeroed or the shrunk net. A choice goes through ``job.once`` so that a resumed run repeats it.
        """
        return net

    def fresh(self, net: nn.Module, job: Job) -> nn.Module:
        """``net`` (after the cut) with new random weights, for phases that train from scratch."""
        return job.fresh(net)

    def extract(self, net: nn.Module, job: Job) -> tuple[nn.Module, Plan]:
        """The compact net that is measured, and the plan that leads to it from the dense net."""
        return net, job.plan

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        """Optimiser groups of ``net`` (and of the method); ``phase.decay_norm=false`` spares 1-d parameters.

        Only biases and the affine parts of norm layers are one-dimensional.
        """
        params = [p for p in net.parameters() if p.requires_grad]
        if phase.decay_norm:
            return [{"params": params}]
        spared = [p for p in params if p.ndim <= 1]
        decayed = [p for p in params if p.ndim > 1]
        return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        """Named scalar terms; their sum is minimised and each is logged."""
        return task.losses(net, batch)

    def before_step(self, net: nn.Module) -> None:
        """Gradients are ready, the optimiser has not stepped."""

    def after_step(self, net: nn.Module) -> None:
        """The weights have moved."""

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """Before the first batch of epoch ``epoch`` (0-based)."""

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """After the last batch and before validation, so that a checkpoint holds the weights its metric measured."""

    def report(self, net: nn.Module) -> Mapping[str, float]:
        """Numbers of interest at the end of an epoch, after ``end_epoch``; logged as ``method/<name>``."""
        return {}

    def before_measure(self, net: nn.Module, job: Job) -> nn.Module:
        """What ``predict`` is given, instead of ``net``, for each batch of one measurement on ``job.settings.device``.

        For predictions by several nets: they are drawn once here, from a generator seeded by (``job.seed``, purpose),
        so that a measurement depends neither on the batches nor on what was computed before. What is returned is
        dropped afterwards and is no state of the run; validation during training does not pass here.
        """
        return net

    def selectable(self, net: nn.Module) -> bool:
        """Whether the weights at the end of this epoch may become the best on validation.

        False while the sparsity that grows in training has not reached its target: the best epoch would be the least
        pruned one.
        """
        return True

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        """Probabilities ``[samples, batch, classes]``; one sample for a deterministic net."""
        return task.probabilities(net, batch)[None]

    def cost(self, net: nn.Module, job: Job) -> Mapping[str, Any] | None:
        """Fields that replace the counted cost, where it depends on the input or on a number of samples."""
        return None


def match_layers(patterns: Iterable[str], names: Iterable[str], *, what: str) -> list[str]:
    """Layer names matched by glob ``patterns``, in the order of ``names``.

    Raises:
        UserError: a pattern matches nothing.
    """
    from fnmatch import fnmatchcase

    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{what}: '{pattern}' matches no layer{nearest(pattern, names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
