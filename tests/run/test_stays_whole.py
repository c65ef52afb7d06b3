"""What a result says of layers that stay whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.run.bare import BareRun
from prunebench.run.stays_whole import stays_whole
from prunebench.surgery.plan import Plan
from tests.bare import bare_run

EXAMPLE = torch.zeros(1, 3, 8, 8)
TOLD = {"layer": "0", "reason": "all its gates are open"}
COMPUTED = {"layer": "1", "reason": "its weight is computed from other parameters"}


def with_a_computed_layer() -> nn.Module:
    computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), computed, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def run_of(net: nn.Module, *told: dict[str, str], plan: Plan | None = None, followed: bool = True) -> BareRun:
    run = bare_run(net.eval(), EXAMPLE)
    run.not_pruned, run.plan = list(told), plan or Plan()
    if followed:
        run.graph.check(run.plan)
    return run


def test_layers_that_no_method_knows_are_added() -> None:
    net = with_a_computed_layer()
    assert stays_whole(run_of(net, TOLD), ("*",)) == [TOLD, COMPUTED]
    assert stays_whole(run_of(net, plan=Plan({"2": (0, 1)})), "interior") == [COMPUTED]
    assert stays_whole(run_of(net, {**COMPUTED, "reason": "known"}), ("*",)) == [{**COMPUTED, "reason": "known"}]
    assert stays_whole(run_of(net, TOLD), ("0", "2")) == [TOLD], "it was not to be cut"
    assert stays_whole(run_of(net), ("*",)) == [], "nothing was to go"


def test_a_net_that_nobody_has_followed_need_not_be() -> None:
    class Listed(nn.Module):
        """A language model that counts its tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3)])

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = x + 1
            return self.layers[0](x)

    run = run_of(Listed(), TOLD, followed=False)
    assert stays_whole(run, ("*",)) == [TOLD]
    with pytest.raises(UserError, match="cannot follow the channels"):
        _ = run.graph
