"""Methods of a few lines, one for each hook, for ``test_hooks.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import NET, Method, Minimise
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.criteria.scorers import Criterion, Evidence, Subject
from prunebench.data.base import Batches

SIDE = "side"


class Ticks(Method):
    """Keeps what the clock has said, in a buffer: one row ``(step, epoch, lr)`` for each step."""

    ticks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ticks", torch.zeros(0, 3))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if not len(self.ticks):
            self.ticks = torch.zeros(run.clock().num_steps, 3)
        return net

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        assert clock.num_steps == len(self.ticks)
        self.ticks[clock.step] = torch.tensor([clock.step, clock.epoch, clock.lr])

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        assert self.ticks[clock.step, 0] == clock.step


class Scale(Method):
    """A number that scales the logits, moved by an optimiser of its own kind beside the net's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        return {"ce": nn.functional.cross_entropy(net(batch[0]) * self.scale, batch[1])}

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        groups = super().param_groups(net, phase)
        own = {"optimizer": "sgd", "lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        return [*groups, {"params": [self.scale], "lr_schedule": "constant", **own}]


class Alternating(Method):
    """The net learns from one half of the training set, the scale from the other, with an optimiser each."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def optimizers(self, net: nn.Module, phase: Phase) -> Mapping[str, list[dict[str, Any]]]:
        own = {"optimizer": "adam", "lr": 0.05, "weight_decay": 0.0, "lr_schedule": "constant"}
        return {NET: self.param_groups(net, phase), SIDE: [{"params": [self.scale], **own}]}

    def streams(self, run: Run) -> Mapping[str, Callable[[int], Batches]]:
        assert run.phase is not None
        size, data, seed = run.phase.batch_size, run.data, run.seed

        def half(k: int) -> Callable[[int], Batches]:
            return lambda epoch: data.train(epoch=epoch, seed=seed, batch_size=size, part=(k, 2))

        return {NET: half(0), SIDE: half(1)}

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]) * self.scale, batch[1])

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        first = {"ce": self.loss(net, batches[NET])}
        minimise(first)
        second = {"side": self.loss(net, batches[SIDE])}
        minimise(second, SIDE)
        return first | second


class Asking(Method):
    """Asks the run for everything that is not training, and cuts nothing."""

    made: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.made = []

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        def draw() -> Mapping[str, Tensor]:
            self.made.append("tensors")
            return {"noise": torch.randn(3), "first": torch.cat([x for x, _ in run.samples("asking", 5)])}

        tensors = run.once_tensors("asked", draw)
        teacher = run.teacher()
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
        achieved = {
            "noise": tensors["noise"].tolist(),
            "validated": run.validate(net)["accuracy"],
            "teacher_differs": run.max_abs_diff(net, teacher),
            "samples": [float(x) for x in tensors["first"].flatten(1).sum(1)],
        }
        return Extracted(net=net, achieved=achieved)


class Widths(Method):
    """Two further operating points, and a number of its own in each measurement."""

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        for factor in (1.0, 0.0):
            point = nn.Sequential(net, Times(factor))
            yield Point(name=f"times_{factor:g}", net=point, settings={"factor": factor})

    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        return {"modules": sum(1 for _ in net.modules())}


class Times(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Taylor(Criterion):
    """|weight x gradient| of each filter, summed: first-order change of the loss on ``num`` samples."""

    def __init__(self, *, num: int) -> None:
        self.num = num
        self.found: dict[str, Tensor] = {}

    def prepare(self, net: nn.Module, evidence: Evidence) -> Criterion:
        ready, net = Taylor(num=self.num), copy.deepcopy(net).eval()
        weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
        totals = {name: torch.zeros_like(p) for name, p in weights.items()}
        for batch in evidence.samples("taylor", self.num):
            for total, grad in zip(
                totals.values(), torch.autograd.grad(evidence.loss(net, batch), list(weights.values())), strict=True
            ):
                total += grad * len(batch[1]) / self.num
        ready.found = {
            name.removesuffix(".weight"): (weights[name].detach() * total).flatten(1).sum(1).abs()
            for name, total in totals.items()
        }
        return ready

    def __call__(self, subject: Subject) -> Tensor:
        return self.found[subject.layer.name]


def shift_apart(net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
    """The groups of a method whose biases have a rate of their own."""
    biases = [p for p in net.parameters() if p.ndim == 1]
    return apart(Method().param_groups(net, phase), biases, lr=0.0)
