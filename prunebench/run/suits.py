"""Whether net, data and phases suit each other: tried once before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.config.phase import Phase
from prunebench.config.settings import TrainerSettings
from prunebench.core.distilled import Teacher, trains_dense
from prunebench.core.task import Task
from prunebench.data.base import Data
from prunebench.errors import UserError
from prunebench.nets.dense_net import DenseNet
from prunebench.nets.package import read_spec
from prunebench.surgery.equality import difference, random_inputs
from prunebench.surgery.faithful import outputs

ROUNDING = 1e-4
"""Share of the outputs by which two nets of one state may differ."""


class Taught(Protocol):
    """What :func:`check_teacher` must know of a run."""

    schedule: str
    phases: tuple[Phase, ...]
    pretrained: bool
    data: Data
    task: Task

    @property
    def example(self) -> Tensor:
        """One input."""

    def teacher(self, source: str) -> nn.Module:
        """The net in another run's folder."""


def check_precision(settings: TrainerSettings) -> list[str]:
    """Refuse to train in a precision that the device lacks; Lightning would take another one.

    Returns:
        What to say of a precision that the device only imitates.
    """
    if settings.device.type != "cpu":
        return []
    if settings.precision == "16-mixed":
        raise UserError("trainer.precision=16-mixed needs a GPU; on a CPU use 32-true or bf16-mixed")
    if settings.precision == "bf16-mixed" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # measured on AVX2: a step of ResNet-20 takes 10 times as long, one of VGG-16 17 times
        return ["trainer.precision=bf16-mixed: this processor imitates it, which is many times slower; use 32-true"]
    return []


def check(dense: DenseNet, data: Data, task: Task, phases: Iterable[Phase]) -> None:
    """Refuse a net whose output is not what the task needs, and batches of one in a net with batch norms.

    Raises:
        UserError: what does not suit, and what would.
    """
    name = dense.settings.get("name", type(dense.template).__name__)
    try:
        with torch.no_grad():
            found = dense.template(dense.example)
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model={name} fails on an input of dataset={data.name}, of shape {list(dense.example.shape)}: {text}"
        ) from error
    if wrong := task.refuses(found):
        raise UserError(f"model={name} does not suit dataset={data.name}: {wrong}")
    phases = list(phases)
    if any(phase.epochs for phase in phases) and not any(p.requires_grad for p in dense.template.parameters()):
        raise UserError(
            f"model={name} has no parameter that learns (all have requires_grad=False), and the schedule trains it; "
            "unfreeze those that shall learn, or use schedule=oneshot with model.pretrained"
        )
    _check_stored(dense, name)
    if not any(isinstance(module, _BatchNorm) for module in dense.template.modules()):
        return
    for phase in phases:
        if phase.epochs and (phase.batch_size or data.batch_size) == 1:
            raise UserError(
                f"the phase {phase.name} has batches of 1 {data.sample}, and model={name} has batch norms, which need "
                "the statistics of several; use dataset.batch_size of 2 or more, or a net without batch norms"
            )


def _check_stored(dense: DenseNet, name: str) -> None:
    """Refuse a net of somebody's own that is more than its state: read back it would be another one.

    Raises:
        UserError: a second net with the same state answers otherwise.
    """
    if dense.settings["_target_"].startswith("prunebench."):
        return
    again = dense.fresh("stored").eval()
    again.load_state_dict(dense.template.state_dict())
    inputs = random_inputs(dense.example, number=2)
    expected, found = outputs(dense.template, inputs), outputs(again, inputs)
    if not all(difference(*pair).within(ROUNDING) for pair in zip(expected, found, strict=True)):
        raise UserError(
            f"model={name} computes with values that its constructor draws and its state does not hold, so that a "
            "saved net would be another one when it is read; register them as persistent buffers, or draw them from a "
            "seed of their own"
        )


def check_teacher(asked: Teacher, run: Taught) -> None:
    """Refuse a teacher that will not be there, or that gives no prediction for the run's data.

    Raises:
        UserError: the data are for no classification, no dense net will be trained, or the saved net does not fit.
    """
    data = run.data
    if data.task != "classification":
        raise UserError(
            f"a teacher tells class probabilities, and dataset={data.name} is for {data.task.replace('_', ' ')}; "
            "leave teacher out"
        )
    if asked.folder is None:
        if asked.missing == "refuse" and not trains_dense(run.phases, pretrained=run.pretrained):
            raise UserError(
                f"teacher=dense needs a trained dense net, and schedule={run.schedule} trains none that the method "
                "leaves alone; use a schedule that pretrains, model.pretrained, or "
                "teacher=saved_net teacher.folder=<run folder>"
            )
        return
    spec, own = read_spec(asked.folder), data.input_facts()
    for fact in ("mean", "std", "class_names"):
        theirs, ours = getattr(spec, fact), own.get(fact)
        if theirs and ours and list(theirs) != list(ours):
            raise UserError(
                f"teacher.folder={asked.folder} holds a net for other data: its {fact} is {list(theirs)[:5]}, that of "
                f"dataset={data.name} is {list(ours)[:5]}"
            )
    net = run.teacher(asked.folder)
    try:
        with torch.no_grad():
            found = net(run.example)
    except Exception as error:
        raise UserError(
            f"teacher.folder={asked.folder} holds a net that fails on an input of dataset={data.name}, of shape "
            f"{list(run.example.shape)}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    if wrong := run.task.refuses(found):
        raise UserError(f"teacher.folder={asked.folder} does not suit dataset={data.name}: {wrong}")
