"""Knowledge distillation around any method: the net also learns from the class probabilities of a trained one.

Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015, in the form of Dong, Yang, NeurIPS 2019,
eq. 9 (D-X-Y/AutoDL-Projects, procedures/simple_KD_main.py:60-76; arXiv v1 prints the two distributions in the wrong
order).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, PositiveFloat, PositiveFraction
from prunebench.core.clock import Clock
from prunebench.core.method import Method, Minimise
from prunebench.core.task import Batch, Classification, Task
from prunebench.errors import UserError

DENSE = "dense"
TERM = "distillation"
"""Name of the term among the losses."""


@validated
@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Whom a run learns from, and how much; see ``conf/teacher``.

    Attributes:
        folder: run folder with a saved net; null = the run's own dense net.
        missing: where no dense net is trained: ``refuse`` the run, or train ``alone``.
        weight: of the distillation; the other losses of the task have 1 - weight.
        temperature: logits are divided by it.
    """

    weight: PositiveFraction
    temperature: PositiveFloat
    folder: str | None = None
    missing: Annotated[str, Among(("refuse", "alone"))] = "refuse"

    @property
    def source(self) -> str:
        """What ``Run.teacher`` is asked for."""
        return self.folder or DENSE


def trains_dense(phases: tuple[Phase, ...], *, pretrained: bool) -> bool:
    """Whether a run has a trained whole net that no method touched, before its first other phase.

    Args:
        pretrained: the run starts from a checkpoint.
    """
    before = [phase.epochs for phase in phases if phase.pretrain and not phase.active]
    leading = next((n for n, phase in enumerate(phases) if phase.active or not phase.pretrain), len(phases))
    return leading < len(phases) and (pretrained or any(before[:leading]))


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each example, ``[batch]``, nats.

    Args:
        student, teacher: logits ``[batch, classes]``; the teacher's without gradient.
    """
    own = F.log_softmax(student.float() / temperature, dim=1)
    other = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(own, other, log_target=True, reduction="none").sum(1)


class Listening:
    """A classification task whose losses are those of ``task`` and what a teacher says about the same batch.

    The teacher answers once to a batch, however often a method asks for losses on it.

    Attributes:
        heard: batches that the teacher has answered to.
    """

    def __init__(self, task: Classification, teacher: nn.Module, *, weight: float, temperature: float) -> None:
        self._task, self._teacher = task, teacher
        self.weight, self.temperature = weight, temperature
        self._inputs: Tensor | None = None
        self._answer: Tensor | None = None
        self.heard = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not yet there, while it is copied
            raise AttributeError(name)
        return getattr(self._task, name)

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The task's terms times 1 - weight, and ``distillation``, the mean over the batch."""
        logits = net(batch[0])
        terms = self._task.losses(_saying(logits), batch)
        told = distillation(logits, self._ask(batch[0]), self.temperature).mean()
        return {**{name: (1 - self.weight) * term for name, term in terms.items()}, TERM: self.weight * told}

    def each_loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The sum of both for each example, ``[batch]``."""
        logits = net(batch[0])
        own = self._task.each_loss(_saying(logits), batch)
        return (1 - self.weight) * own + self.weight * distillation(logits, self._ask(batch[0]), self.temperature)

    @torch.no_grad()
    def _ask(self, inputs: Tensor) -> Tensor:
        if inputs is not self._inputs or self._answer is None:
            self._inputs, self._answer = inputs, self._teacher.to(inputs.device)(inputs)
            self.heard += 1
        return self._answer


def _saying(logits: Tensor) -> nn.Module:
    """A net that has answered already, so that it is run once."""
    return cast(nn.Module, lambda _: logits)


class Distilled(Method):
    """A method and a teacher in one phase: every hook is the method's own, and its task listens to the teacher.

    The method is kept under its own names in checkpoints, and the teacher in none.

    Args:
        inner: the method.
        teacher: a frozen net in evaluation mode that gives logits.
        weight, temperature: see :class:`Teacher`.
    """

    def __init__(self, inner: Method, teacher: nn.Module, *, weight: float, temperature: float) -> None:
        super().__init__()
        for name in ("schedules", "sizes_given", "narrows", "objective"):
            setattr(self, name, getattr(inner, name))
        self.inner = inner
        self._teacher = (teacher,)  # in a tuple: no part of the state
        self._options = {"weight": weight, "temperature": temperature}
        self._listening: tuple[Task, Listening] | None = None
        self.register_state_dict_post_hook(_leave_out_inner)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_in_inner)  # type: ignore[no-untyped-call]

    @property
    def teacher(self) -> nn.Module:
        """The frozen net."""
        return self._teacher[0]

    @property
    def alternates(self) -> bool:
        """Whether the method does."""
        return self.inner.alternates

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        """The method's own terms, those of the task less heavy, and ``distillation``.

        Raises:
            UserError: the method asks no task for a loss.
        """
        listening = self._with_teacher(task)
        terms = self.inner.losses(net, batch, cast(Task, listening))
        if not listening.heard:
            raise UserError(
                "this method computes its loss from the net's output itself, so that no teacher is heard; "
                "leave teacher out"
            )
        return terms

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        """The method's own."""
        return self.inner.update(net, batches, cast(Task, self._with_teacher(task)), minimise, clock)

    def _with_teacher(self, task: Task) -> Listening:
        if self._listening is None or self._listening[0] is not task:
            assert isinstance(task, Classification)
            self._listening = (task, Listening(task, self.teacher, **self._options))
        return self._listening[1]


def _leave_out_inner(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Name the method's tensors as if nothing were around it."""
    for name in [name for name in state if name.startswith(f"{prefix}inner.")]:
        state[prefix + name.removeprefix(f"{prefix}inner.")] = state.pop(name)


def _put_in_inner(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}inner.{name.removeprefix(prefix)}"] = state.pop(name)


def _delegate(name: str) -> Callable[..., Any]:
    @functools.wraps(vars(Method)[name])
    def call(self: Distilled, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    return call


for _name, _hook in list(vars(Method).items()):
    if callable(_hook) and not _name.startswith("_") and _name not in vars(Distilled):
        setattr(Distilled, _name, _delegate(_name))
