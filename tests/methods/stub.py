"""A run without data and folder, for methods whose choice depends on the net alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.config.phase import Phase
from prunebench.measure import cost
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero


@dataclass
class StubJob:
    """What :class:`prunebench.run.job.Job` gives a method, as far as these tests use it."""

    net: nn.Module
    example: Tensor = field(default_factory=lambda: torch.zeros(1, 3, 32, 32))
    schedule: str = "finetune"
    seed: int = 0
    fraction: float = 1.0
    epochs: int = 2
    plan: Plan = field(default_factory=Plan)
    not_pruned: list[dict[str, str]] = field(default_factory=list)
    achieved: dict[str, Any] = field(default_factory=dict)
    zeroed: nn.Module | None = None
    stored: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> nn.Module:
        return self.net

    @cached_property
    def graph(self) -> ChannelGraph:
        return ChannelGraph.trace(self.net, self.example)

    @property
    def dense(self) -> StubJob:
        return self

    @cached_property
    def dense_cost(self) -> cost.Cost:
        return cost.count(self.net, self.example)

    @property
    def phase(self) -> Phase:
        return Phase(name="train", epochs=self.epochs, lr=0.1, fraction=self.fraction)

    def steps_per_epoch(self, phase: Phase) -> int:
        return 2

    def choose(self, make: Callable[[], Choice]) -> Choice:
        return make()

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        return self.stored.setdefault(name, make())

    def seed_all(self, purpose: str) -> None:
        torch.manual_seed(self.seed)

    def max_abs_diff(self, one: nn.Module, other: nn.Module) -> float:
        torch.manual_seed(0)
        x = torch.randn(4, *self.example.shape[1:])
        with torch.no_grad():
            return float((one.eval()(x) - other.eval()(x)).abs().max())

    def cut(self, net: nn.Module, choice: Choice) -> nn.Module:
        self.plan, self.not_pruned, self.achieved = choice.plan, choice.not_pruned, choice.achieved
        self.zeroed = zero(net, self.graph, choice.plan)
        return shrink(net, self.graph, choice.plan)

    def fresh(self, net: nn.Module) -> nn.Module:
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return net
