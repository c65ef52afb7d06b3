from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.budget.gradual import cubic_sparsity
from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.method import Method
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers.convert import gated_layers
from prunebench.measure import cost
from prunebench.methods.agp import Agp
from prunebench.methods.agp_structured import AgpStructured
from prunebench.methods.bases import component_gates
from prunebench.run.bare import BareRun
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

# truncated counts of a dozen components miss a share by up to one of them
CONFORMANCE = {"agp_structured": Conformance(may_miss=True)}

EPOCHS = 10


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 20),
        nn.Linear(20, 4),
    )


def start(kind: type[Method], net: nn.Module | None = None, **options: Any) -> tuple[nn.Module, Any, BareRun]:
    net = net or small()
    bare = bare_run(net, torch.zeros(1, 1, 8, 8), schedule="simultaneous", epochs=EPOCHS)
    method = kind(**{"target_sparsity": 0.8, **options})
    method.check(net, bare)
    return method.attach(net, bare), method, bare


def train_epoch(net: nn.Module, method: Any, first: Clock) -> None:
    """Two steps from ``first`` on."""
    torch.manual_seed(first.epoch)
    method.start_epoch(net, first)
    optimizer = torch.optim.Adam(method.param_groups(net, Phase(name="train", epochs=1, lr=0.01)), lr=0.01)
    task = Classification(num_classes=4)
    for step in range(first.step, first.step + first.steps_per_epoch):
        optimizer.zero_grad()
        batch = torch.randn(8, 1, 8, 8), torch.randint(4, (8,))
        torch.stack(list(method.losses(net.train(), batch, task).values())).sum().backward()
        method.before_step(net, first.at(step))
        optimizer.step()
        method.after_step(net, first.at(step))


def share_zero(layer: Any) -> float:
    return 1 - int(layer.weight.count_nonzero()) / layer.weight.numel()


def test_each_layer_follows_the_curve_and_nothing_comes_back() -> None:
    net, method, bare = start(Agp, end=0.6)
    dead = torch.zeros_like(method.masks.live)
    for epoch in range(EPOCHS):
        train_epoch(net, method, bare.clock().at(2 * epoch))
        expected = cubic_sparsity(epoch, initial=0.05, final=0.8, start=0, end=6)
        for index in (0, 2, 5):
            assert share_zero(net[index]) == pytest.approx(expected, abs=1 / net[index].weight.numel() + 1e-9), epoch
        assert not method.masks.live[dead].any()
        dead = ~method.masks.live
        assert method.selectable(net) == (expected > 0.78)
    assert share_zero(net[6]) == 0.0  # the output layer
    found = method.extract(net, bare)
    assert found.net is net and found.achieved["reached"] == pytest.approx(0.8, abs=1e-3)
    counted = cost.count(net, bare.example)
    assert counted.params - counted.nonzero_params == int(dead.sum())


def test_the_smallest_weights_go() -> None:
    net, method, bare = start(Agp, initial_sparsity=0.0, target_sparsity=0.5, end=0.1)
    before = {index: net[index].weight.detach().clone() for index in (0, 2, 5)}
    method.start_epoch(net, bare.clock())  # a ramp of one epoch
    for index, weight in before.items():
        gone = net[index].weight == 0
        assert int(gone.sum()) == weight.numel() // 2
        assert weight[gone].abs().max() <= weight[~gone].abs().min()


def test_a_cut_is_the_first_step_of_the_ramp() -> None:
    dense = small()
    bare = bare_run(dense, torch.zeros(1, 1, 8, 8), epochs=EPOCHS)
    for kind in (Agp, AgpStructured):
        method = kind(target_sparsity=0.8, initial_sparsity=0.25)
        method.check(dense, bare)
        net = method.prune(dense, bare).net
        found = method.report(net)["sparsity"]
        assert found == pytest.approx(0.25, abs=0.06)  # ranks are small
        assert share_zero(dense[5]) == 0.0  # the argument of a cut may be kept by the caller
        method.attach(net, bare)
        assert method.report(net)["sparsity"] == found


@pytest.mark.parametrize("kind", [Agp, AgpStructured])
def test_a_resumed_phase_goes_on_along_the_curve(kind: type[Method]) -> None:
    options: Any = {"end": 1.0, "every": 0.5}  # an update before each step
    net, method, bare = start(kind, **options)
    for epoch in range(3):
        train_epoch(net, method, bare.clock().at(2 * epoch))
    again, resumed, _ = start(kind, **options)
    again.load_state_dict(net.state_dict())
    resumed.load_state_dict(method.state_dict())
    for one, other in ((net, method), (again, resumed)):
        train_epoch(one, other, bare.clock().at(6))
    # after the seventh of twenty steps, and from its ranks on
    expected = cubic_sparsity(7, initial=0.05, final=0.8, start=0, end=20)
    assert method.report(net)["sparsity"] == pytest.approx(expected, abs=0.06)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in method.state_dict().items())


def test_components_follow_the_curve_and_are_removed() -> None:
    net, method, bare = start(AgpStructured, end=0.6, l1=1e-3)
    for epoch in range(EPOCHS):
        train_epoch(net, method, bare.clock().at(2 * epoch))
        expected = cubic_sparsity(epoch, initial=0.05, final=0.8, start=0, end=6)
        for _, layer in gated_layers(net):
            zero = int((layer.gate.value == 0).sum())
            assert zero == int(expected * layer.gate.size + 1e-9)
            assert zero == int((~layer.gate.live).sum())
        assert method.selectable(net) == (component_gates.sparsity(net) > 0.78)
    compact = bare.note(method.extract(net.eval(), bare))
    assert bare.difference is not None and bare.difference < 1e-5
    assert not list(gated_layers(compact))
    left = cost.count(compact, bare.example)
    assert left.params == bare.achieved["kept_params"] + 8 + 12 + 20 + 84
    assert left.macs < 0.35 * bare.dense.cost.macs


def test_norms_leave_the_net_as_it_is_and_uniform_does_not() -> None:
    x = torch.randn(4, 1, 8, 8)
    dense = small()
    for diagonal, same in (("norm", True), ("uniform", False)):
        net, _, _ = start(AgpStructured, dense, rank="full", diagonal=diagonal)
        assert torch.allclose(net(x), dense(x), atol=1e-4) == same
    net, _, _ = start(AgpStructured, dense, plain="inputs", layers=["5"])
    torch.testing.assert_close(net(x), dense(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net[5].gate.value, dense[5].weight.norm(dim=0))
    net, _, _ = start(AgpStructured, dense, plain="inputs", layers=["5"], diagonal="uniform")
    assert float(net[5].gate.value.detach().abs().max()) <= 1.0 and net[5].gate.size == 192


def test_the_l1_penalty() -> None:
    net, method, _ = start(AgpStructured, l1=0.5, layers=["5"])
    batch = torch.randn(8, 1, 8, 8), torch.randint(4, (8,))
    terms = method.losses(net, batch, Classification(num_classes=4))
    assert float(terms["l1"].detach()) == pytest.approx(0.5 * float(net[5].gate.value.detach().abs().sum()))


@pytest.mark.parametrize("kind", [Agp, AgpStructured])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sparsity": 1.0}, r"target_sparsity must be a number in \[0, 1\), got 1.0"),
        ({"start": 0.8, "end": 0.5}, r"method\.start=0\.8 must be below method\.end=0\.5"),
        ({"every": 0}, "every must be a number above 0, got 0"),
        ({"layers": ["fc"]}, r"method\.layers: 'fc' matches no layer"),
        ({"layers": ["6"]}, "leaves no layer to prune"),
    ],
)
def test_mistakes(kind: type[Method], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(kind, **options)


def test_a_misspelt_diagonal() -> None:
    with pytest.raises(UserError, match="diagonal must be one of norm, uniform, got 'norms'; did you mean norm"):
        AgpStructured(target_sparsity=0.5, diagonal="norms")


def test_the_best_epoch_is_one_at_the_target(tmp_path: Path) -> None:
    result, _ = run(
        tmp_path, *SHORT, "dataset.epochs.train=4", "model=lenet300_100", "method=agp", "schedule=simultaneous",
        "method.end=0.75", "method.target_sparsity=0.995", "dataset.validation=300",
    )  # fmt: skip
    (phase,) = result["phases"]
    assert phase["best_epoch"] >= 2
    assert result["cost"]["final"]["nonzero_params"] < 0.1 * result["cost"]["dense"]["params"]
