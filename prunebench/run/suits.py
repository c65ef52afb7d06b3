"""Whether net, data and phases suit each other: tried once before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.config.phase import Phase
from prunebench.core.task import Task
from prunebench.data.base import Data
from prunebench.errors import UserError
from prunebench.nets.dense_net import DenseNet


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
    if not any(isinstance(module, _BatchNorm) for module in dense.template.modules()):
        return
    for phase in phases:
        if phase.epochs and (phase.batch_size or data.batch_size) == 1:
            raise UserError(
                f"the phase {phase.name} has batches of 1 {data.sample}, and model={name} has batch norms, which need "
                "the statistics of several; use dataset.batch_size of 2 or more, or a net without batch norms"
            )
