"""A run around one net for tests of methods: no folder, no training, made-up data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.task import Classification
from prunebench.data.base import Batches, Data
from prunebench.nets.dense_net import DenseNet
from prunebench.run.bare import BareRun


class MadeUp(Data):
    """Two batches of two normal inputs in every split, all of class 0."""

    task, sample, name = "classification", "picture", "made_up"
    num_classes, num_train, num_val, num_test = 10, 4, 4, 4

    def __init__(self, example: Tensor) -> None:
        self._example = example
        self.device = torch.device("cpu")

    def setup(self, root: Path, *, download: bool) -> None:
        pass

    def _batches(self, **_: Any) -> Batches:
        draws = torch.Generator().manual_seed(0)
        inputs = torch.randn(4, *self._example.shape[1:], generator=draws)
        return [(part, torch.zeros(2, dtype=torch.long)) for part in inputs.split(2)]

    train = validation = test = _batches

    def train_eval(self, num: int | None = None, **_: Any) -> Batches:
        return self._batches()

    def example(self) -> Tensor:
        return self._example

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name}


def bare_run(
    net: nn.Module | DenseNet,
    example: Tensor | None = None,
    *,
    schedule: str = "finetune",
    epochs: int = 2,
    seed: int = 0,
    fraction: float = 1.0,
) -> BareRun:
    """A run in its one phase, of ``epochs`` epochs with two steps each.

    Args:
        net: the dense net, or how to build it.
        example: one input, where ``net`` does not know it; a CIFAR-sized picture unless given.
        fraction: of the target, for the cut of the phase.
    """
    example = torch.zeros(1, 3, 32, 32) if example is None else example
    if not isinstance(net, DenseNet):
        whole = copy.deepcopy(net)
        net = DenseNet({"name": "given"}, make=lambda *_: copy.deepcopy(whole), example=example)
    phase = Phase(name="train", epochs=epochs, lr=0.1, prune=True, active=True, fraction=fraction)
    return BareRun(
        dense=net,
        data=MadeUp(net.example),
        task=Classification(num_classes=10),
        schedule=schedule,
        phases=(phase,),
        phase=phase,
        seed=seed,
    )
