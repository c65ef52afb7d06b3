"""Simultaneous VI: the hyper-prior, estimators and projected step by hand, exact removal, resume with smaller nets."""

from __future__ import annotations

import copy
import csv
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers.bernoulli_gates import (
    BernoulliInputs,
    arm_gradients,
    bernoulli_gates,
    best_pi,
    expected_loss,
    hard_gates,
    log_hyper_prior,
)
from prunebench.methods.bases.single_readers import unit_places
from prunebench.methods.bases.unit_prices import FlatPrice
from prunebench.methods.simultaneous_vi import SimultaneousVI
from prunebench.models.lenet import lenet300_100
from prunebench.models.preresnet_cifar import CifarPreResNet
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_cifar import vgg16
from prunebench.run import assemble
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.training.lit import Lit
from prunebench.training.optimizers import SideBySide, build_optimizer, narrow_state
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

# two epochs: some units of each layer are rounded up, some down
CONFORMANCE = {"simultaneous_vi": Conformance(options=("method.theta_start=0.5", "method.kappa=1"))}

TASK = Classification(num_classes=10)


# -- oracles 1 and 2: the hyper-prior


@pytest.mark.parametrize(
    ("gamma", "densities"),
    [(10.0, (3.9086503371, 0.7106636977, 0.3908650337)), (2.0, (1.4426950409, 0.9617966939, 0.7213475204))],
)
def test_the_hyper_prior_is_a_density(gamma: float, densities: tuple[float, ...]) -> None:
    pi = torch.tensor([0.0, 0.5, 1.0], dtype=torch.double)
    assert log_hyper_prior(pi, math.log(gamma)).exp().tolist() == pytest.approx(densities, abs=1e-9)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.double)
    assert float(torch.trapezoid(log_hyper_prior(grid, math.log(gamma)).exp(), grid)) == pytest.approx(1, abs=1e-7)
    assert torch.equal(log_hyper_prior(pi, 0.0), torch.zeros(3, dtype=torch.double))


@pytest.mark.parametrize(
    ("gamma", "theta", "pi_star", "rise"),
    [(10.0, 0.5, 0.0909091, 1.1512925465), (10.0, 0.9, 0.4736842, 2.0723265837), (0.5, 0.1, 0.1818182, -0.0693147)],
)
def test_the_best_pi_makes_the_price_linear(gamma: float, theta: float, pi_star: float, rise: float) -> None:
    pi = torch.linspace(1e-6, 1 - 1e-6, 2_000_001, dtype=torch.double)
    kl = theta * (theta / pi).log() + (1 - theta) * ((1 - theta) / (1 - pi)).log()
    values = kl - log_hyper_prior(pi, math.log(gamma))
    assert float(pi[values.argmin()]) == pytest.approx(pi_star, abs=2e-6)
    assert float(best_pi(torch.tensor(theta), math.log(gamma))) == pytest.approx(pi_star, abs=1e-6)
    at_zero = -float(log_hyper_prior(torch.zeros(1, dtype=torch.double), math.log(gamma)))
    assert float(values.min()) - at_zero == pytest.approx(rise, abs=1e-6)
    assert rise == pytest.approx(theta * math.log(gamma), abs=1e-6)


# -- oracle 3: three gates

THETA = torch.tensor([0.3, 0.6, 0.9], dtype=torch.double)
EXACT, STE = (-0.8136288, 1.6104028, -0.4714586), (-0.8770082, 1.7540164, -0.4385041)


def three_gates(*, per_example: bool = True) -> BernoulliInputs:
    """The logit of the second class is 0.2 + 1.5 xi (1, -2, 0.5) where all units are 1."""
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.5, -3.0, 0.75]]))
        layer.bias.copy_(torch.tensor([0.0, 0.2], dtype=torch.double))
    gate = BernoulliInputs(layer, units=3, span=1, start=0.5, per_example=per_example).double()
    gate.theta.data = THETA.clone()
    return gate


def nlls(gate: BernoulliInputs, batch: int) -> Tensor:
    logits = gate(torch.ones(batch, 3, dtype=torch.double))
    return nn.functional.cross_entropy(logits, torch.ones(batch, dtype=torch.long), reduction="none")


def test_the_exact_gradient_is_that_of_the_expectation() -> None:
    gate = three_gates()
    value = expected_loss([gate], lambda: nlls(gate, 1).mean())
    assert float(value.detach()) == pytest.approx(1.24147580907, abs=1e-10)
    (found,) = torch.autograd.grad(value, [gate.theta])
    assert found.tolist() == pytest.approx(EXACT, abs=1e-6)
    for place in range(3):
        ends = []
        for shift in (-1e-5, 1e-5):
            gate.theta.data = THETA.clone()
            gate.theta.data[place] += shift
            ends.append(float(expected_loss([gate], lambda: nlls(gate, 1).mean()).detach()))
        assert (ends[1] - ends[0]) / 2e-5 == pytest.approx(EXACT[place], abs=1e-6)


def test_straight_through_is_biased_as_computed() -> None:
    torch.manual_seed(0)
    gate = three_gates().train()
    nlls(gate, 1_000_000).mean().backward()
    # 10^6 draws: a standard error below 0.002
    assert gate.theta.grad.tolist() == pytest.approx(STE, abs=0.006)
    assert all(a * b > 0 and 1.06 < max(a / b, b / a) < 1.10 for a, b in zip(STE, EXACT, strict=True))


@pytest.mark.parametrize("per_example", [True, False])
def test_arm_is_unbiased(per_example: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # all theta are multiples of 0.1: in a cell of 0.1 no gate changes and the estimate is linear in u, so that the mean
    # over the cells' centres is the expectation
    centres = torch.arange(10, dtype=torch.double) / 10 + 0.05
    cells = torch.cartesian_prod(centres, centres, centres)
    gate = three_gates(per_example=per_example).train()
    drawn = [cells] if per_example else list(cells.split(1))
    estimates, firsts = [], []
    for u in drawn:
        monkeypatch.setattr(torch, "rand", lambda *size, u=u, **_: u if size == tuple(u.shape) else None)
        first, (found,) = arm_gradients(
            [gate], lambda: nlls(gate, 1000) if per_example else nlls(gate, 1).mean(), 1000 if per_example else 1
        )
        estimates.append(found)
        firsts.append(first.detach().mean())
    assert torch.stack(estimates).mean(0).tolist() == pytest.approx(EXACT, abs=1e-6)
    assert float(torch.stack(firsts).mean()) == pytest.approx(1.24147580907, abs=1e-9)
    assert gate.given is None


def test_a_vertex_is_best() -> None:
    gate = three_gates()
    price = FlatPrice({"layer": 0.3}, {"layer": 3})

    def objective(theta: Tensor) -> float:
        gate.theta.data = theta
        return float((expected_loss([gate], lambda: nlls(gate, 1).mean()) + price({"layer": gate})).detach())

    vertices = {state: objective(torch.tensor(state, dtype=torch.double))
                for state in itertools.product((0.0, 1.0), repeat=3)}  # fmt: skip
    best = min(vertices, key=lambda state: vertices[state])
    assert best == (1.0, 0.0, 0.0) and vertices[best] == pytest.approx(0.4677860294, abs=1e-7)
    inside = torch.rand(200, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert min(objective(theta) for theta in inside) > vertices[best]


# -- oracles 4 and 5: projected steps


def mlp(hidden: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def attached(
    net: nn.Module, example: Tensor, *, num_train: int = 1000, epochs: int = 2, **settings: Any
) -> tuple[SimultaneousVI, Any, nn.Module]:
    bare = bare_run(net, example, schedule="simultaneous", epochs=epochs)
    bare.data.num_train = num_train
    bare.phase = bare.phases[0]
    method = SimultaneousVI(**{"log_gamma": 5.0, **settings})
    method.check(net, bare)
    return method, bare, method.attach(net, bare)


def optimizer_of(method: SimultaneousVI, net: nn.Module, **settings: Any) -> Any:
    phase = Phase(name="train", epochs=2, lr=0.01, **settings)
    return build_optimizer(phase, method.param_groups(net, phase))


def test_a_projected_step_by_hand() -> None:
    # kappa is such that eta = kappa N / (log gamma x 4 steps) = 0.5
    method, bare, net = attached(mlp(), torch.zeros(1, 4), kappa=0.01)
    optimizer = optimizer_of(method, net)
    (gate,) = bernoulli_gates(net).values()
    gate.theta.data = torch.tensor([0.02, 0.5, 0.99])
    method.losses(net.train(), (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)), TASK)["price"].backward()
    gate.theta.grad += torch.tensor([-0.001, -0.02, -0.2])
    optimizer.step()
    method.after_step(net, bare.clock())
    assert gate.theta.tolist() == pytest.approx([0.018, 0.5075, 1.0], abs=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_theta_never_has_another_optimiser_than_plain_sgd(optimizer: str) -> None:
    method, _, net = attached(mlp(), torch.zeros(1, 4), lambda_w=7.0)
    built = optimizer_of(method, net, optimizer=optimizer, momentum=0.9, weight_decay=0.1)
    assert isinstance(built, SideBySide) == (optimizer == "adam")
    own = next(
        group for group in built.param_groups if any(p.shape == (3,) and p.min() == 0.5 for p in group["params"])
    )
    assert len(own["params"]) == 1 and own["momentum"] == own["weight_decay"] == 0 and not own["clip"]
    assert own["lr"] == pytest.approx(4 * 1000 / (5 * 4)) and own["lr_schedule"] == "constant"
    others = [group for group in built.param_groups if group is not own]
    assert others and all(group["weight_decay"] == pytest.approx(7 / 1000) for group in others)


def test_a_unit_that_nobody_reads_falls_in_a_line_and_goes() -> None:
    steps = 100_000
    whole = mlp()
    with torch.no_grad():
        whole[3].weight[:, 1] = 0
    # eta = 0.3: a step of log gamma eta / N = 0.0015, so that 0.5 is gone after ceil(333.3) steps
    method, bare, net = attached(
        whole, torch.zeros(1, 4), kappa=0.006, prune_every=1, theta_tol=0.0, lambda_w=0.0, fix_fraction=0.0
    )
    (gate,) = bernoulli_gates(net).values()
    optimizer = torch.optim.SGD([gate.theta], lr=method.param_groups(net, bare.phases[0])[-1]["lr"])
    clock = Clock(step=10, num_steps=steps, epoch=1, num_epochs=10_000, lr=0.1)
    assert math.ceil(0.5 * 1000 / (0.3 * 5)) == 334
    images = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).abs()
    for step in range(1, 335):
        optimizer.zero_grad()
        torch.stack(
            list(method.losses(net.train(), (images, torch.zeros(8, dtype=torch.long)), TASK).values())
        ).sum().backward()
        optimizer.step()
        narrowed = method.after_step(net, clock)
        if step < 334:
            assert gate.alive[1]
            place = int(gate.alive[:1].sum())
            assert float(gate.theta.detach()[place]) == pytest.approx(0.5 - 0.0015 * step, abs=2e-5)
        for found in narrowed or ():
            narrow_state(optimizer, found)
    assert not gate.alive[1]


# -- oracle 6: removal is exact


def lenet_like() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * 9, 8), nn.ReLU(), nn.Linear(8, 10)),
    )


def small_resnet() -> nn.Module:
    return CifarResNet(blocks=2, num_classes=10, in_channels=1, shortcut="B", width=4)


def small_preresnet() -> nn.Module:
    return CifarPreResNet(blocks=1, num_classes=10, in_channels=1, width=4)


@pytest.mark.parametrize("build", [lenet_like, small_resnet, small_preresnet])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_removal_changes_neither_outputs_nor_the_next_steps(build: Any, kind: str) -> None:
    torch.manual_seed(0)
    method, _, net = attached(build(), torch.zeros(1, 1, 8, 8))
    units = method._in_training.units
    draws = torch.Generator().manual_seed(1)
    stays = {}
    for name, gate in units.of(net).items():
        keep = torch.rand(len(gate.theta), generator=draws) > 0.5
        keep[0], keep[-1] = True, False
        gate.theta.data = keep.float()
        stays[name] = keep
    assert stays
    batches = [(torch.randn(16, 1, 8, 8), torch.randint(10, (16,))) for _ in range(5)]
    weights = [p for name, p in net.named_parameters() if not name.endswith("theta")]
    settings: Any = {"lr": 0.01, "weight_decay": 0.01}
    make = torch.optim.Adam if kind == "adam" else lambda params, **more: torch.optim.SGD(params, momentum=0.9, **more)
    optimizer = make(weights, **settings)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        net.zero_grad()
        TASK.losses(net.train(), batch)["ce"].backward()
        optimizer.step()

    for batch in batches[:3]:
        step(net, optimizer, batch)
    small = copy.deepcopy(net)
    small_optimizer = make([p for name, p in small.named_parameters() if not name.endswith("theta")], **settings)
    small_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = [id(p) for p in small.parameters()]
    counters = [copy.deepcopy(s.get("step")) for s in small_optimizer.state.values()]
    for narrowed in units.remove(small, stays):
        narrow_state(small_optimizer, narrowed)
    assert [id(p) for p in small.parameters()] == held
    assert [s.get("step") for s in small_optimizer.state.values()] == counters
    for p, state in small_optimizer.state.items():
        assert all(
            value.shape == p.shape for key, value in state.items() if isinstance(value, Tensor) and key != "step"
        )
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(batches[4][0]), net.eval()(batches[4][0]), atol=1e-5, rtol=0)
    for batch in batches[3:]:
        step(net, optimizer, batch)
        step(small, small_optimizer, batch)
    units.remove(net, stays)
    for (name, large), (_, own) in zip(net.state_dict().items(), small.state_dict().items(), strict=True):
        torch.testing.assert_close(own, large, atol=1e-5, rtol=1e-5, msg=name)


def test_gates_stand_inside_the_blocks_alone() -> None:
    graph = ChannelGraph.trace(small_resnet(), torch.zeros(1, 1, 8, 8))
    places, refused = unit_places(graph)
    assert {name: place.reader for name, place in places.items()} == {
        f"layer{s}.{b}.conv1": f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in (0, 1)
    }
    assert all(row["reason"] for row in refused) and "conv1" in [row["layer"] for row in refused]
    bottlenecks, _ = unit_places(ChannelGraph.trace(small_preresnet(), torch.zeros(1, 1, 8, 8)))
    assert {(p.layer[-5:], p.reader[-5:]) for p in bottlenecks.values()} == {("conv1", "conv2"), ("conv2", "conv3")}


def test_what_is_extracted_computes_the_same() -> None:
    torch.manual_seed(0)
    method, bare, net = attached(lenet_like(), torch.zeros(1, 1, 8, 8))
    for gate in bernoulli_gates(net).values():
        gate.theta.data = torch.arange(len(gate.theta)) % 3 / 2.0
    images = torch.randn(6, 1, 8, 8)
    with torch.no_grad(), hard_gates(net.eval()):
        expected = net(images)
    last = bare.clock().at(1)  # the last drawn step of two epochs with two steps
    assert method.after_step(net, last) and bool(method.snapped)
    method.undecided.zero_()
    # the batch norm has been renewed, with the statistics of the two training batches of two pictures
    found = method.extract(net, bare)
    plan = found.plan
    assert {name: len(kept) for name, kept in plan.keep.items()} == {"0": 4, "5": 5}
    with torch.no_grad():
        torch.testing.assert_close(found.net.eval()(images), net.eval()(images), atol=1e-5, rtol=0)
    assert not torch.allclose(expected, net(images), atol=1e-3)


def test_batch_norms_are_renewed_by_a_pass_over_the_training_data() -> None:
    torch.manual_seed(0)
    method, bare, net = attached(lenet_like(), torch.zeros(1, 1, 8, 8), num_train=4)
    batches = list(bare.data.train())
    method.after_step(net, bare.clock().at(1))
    with torch.no_grad():
        maps = [net[0](images) for images, _ in batches]
    expected = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(net[1].running_mean, expected)
    assert method.spent_macs() == bare.graph.macs(method._in_training.units.plan(net)) * 4


# -- oracles 7 and 8: sizes


def test_published_sizes() -> None:
    graph = ChannelGraph.trace(lenet300_100(), torch.zeros(1, 1, 28, 28))
    small = Plan(keep={"fc1": tuple(range(64)), "fc2": tuple(range(43))})
    assert (graph.dense_params, graph.dense_macs) == (266_610, 266_200)
    assert (graph.params(small), graph.macs(small)) == (53_475, 53_358)


def test_sizes_of_the_convolutions_of_vgg16() -> None:
    with torch.device("meta"):
        net = vgg16()
    graph = ChannelGraph.trace(net.to_empty(device="cpu"), torch.zeros(1, 3, 32, 32))
    convs = [layer for layer in graph.layers.values() if layer.kind == "conv"]
    assert len(convs) == 13
    weights = [layer.in_channels * layer.out_channels * layer.kernel_area for layer in convs]
    assert sum(weights) == 14_710_464
    assert sum(w * layer.positions for w, layer in zip(weights, convs, strict=True)) == 313_196_544
    places, _ = unit_places(graph)
    assert len(places) == 14  # all filters and the hidden linear layer


def test_the_price_of_complexity_is_the_expected_share() -> None:
    method, _, net = attached(
        lenet300_100(), torch.zeros(1, 1, 28, 28), price="complexity", cost_weight=266_200.0, macs_share=1.0
    )
    gates = method._in_training.units.of(net)
    value = method._in_training.price(gates)
    assert value.item() == pytest.approx(125_600, rel=1e-6)
    value.backward()
    assert set(gates["fc1"].theta.grad.round().tolist()) == {834.0}
    assert set(gates["fc2"].theta.grad.round().tolist()) == {160.0}
    # (784 + 1) x 150 + (150 + 1) x 50 + 50 x 10 + 10 parameters
    method, _, net = attached(
        lenet300_100(), torch.zeros(1, 1, 28, 28), price="complexity", cost_weight=266_610.0, macs_share=0.0
    )
    assert method._in_training.price(method._in_training.units.of(net)).item() == pytest.approx(125_810, rel=1e-6)


# -- training

NET = ("model=lenet300_100", "method=simultaneous_vi")
SIX = (
    *SHORT,
    *NET,
    "schedule.phases.train.epochs=6",
    "schedule.phases.train.lr=0.01",
    "method.kappa=1.6",
    "method.fix_fraction=0.3",
)


def phase_file(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "phases" / "train" / "weights.safetensors")


def macs_by_epoch(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: float(row[f"method/{key}"]) for key in ("macs", "train_macs", "units", "undecided")}
                for row in csv.DictReader(file)]  # fmt: skip


class PowerCut(Exception):
    """Stands for the end of a process in the middle of an epoch."""


def test_training_gets_cheaper_and_goes_on_where_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, folder = run(tmp_path / "straight", *SIX)
    rows = macs_by_epoch(folder)
    macs = [row["macs"] for row in rows]
    # nothing goes in the first epoch; 4 epochs with draws, the last of which ends with rounding
    assert macs[0] == 64 * 300 + 300 * 100 + 1000 and macs == sorted(macs, reverse=True)
    assert macs[1] < macs[0] and macs[3] < macs[2] < macs[1] and macs[3] == macs[5] == straight["cost"]["final"]["macs"]
    # each epoch costs 3 x MACs x samples of the net as it was at its beginning
    expected = [3 * before * 437 for before in [macs[0], *macs[:-1]]]
    assert [row["train_macs"] for row in rows] == pytest.approx(list(itertools.accumulate(expected)), rel=1e-6)
    spent = round(sum(expected))
    assert straight["phases"][0]["train_macs"] == spent == straight["metrics"]["final"]["method"]["train_macs"]
    own = straight["metrics"]["final"]["method"]
    assert own["train_macs_share"] == pytest.approx(spent / (3 * macs[0] * 437 * 6))
    assert own["undecided"] == pytest.approx(rows[5]["undecided"])
    kept = {row["layer"]: row["out_channels"] for row in straight["cost"]["per_layer"]}
    assert (
        own["kept"] == {name: kept[name] for name in ("fc1", "fc2")} and sum(own["kept"].values()) == rows[5]["units"]
    )

    original = Lit.training_step
    for epoch in (2, 3, 5):  # in nets of three sizes

        def cut(self: Lit, batch: Any, index: int, epoch: int = epoch) -> Tensor | None:
            if self.current_epoch == epoch and index == 3:
                raise PowerCut
            return original(self, batch, index)

        monkeypatch.setattr(Lit, "training_step", cut)
        with pytest.raises(PowerCut):
            run(tmp_path / "cut", *SIX)
    monkeypatch.setattr(Lit, "training_step", original)
    resumed, again = run(tmp_path / "cut", *SIX)
    assert resumed["metrics"] == straight["metrics"]
    assert resumed["phases"][0]["train_macs"] == spent
    left, right = phase_file(folder), phase_file(again)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert macs_by_epoch(again) == rows
    # a finished phase is read back in its small shapes
    (folder / "result.json").unlink()
    reread, _ = run(tmp_path / "straight", *SIX)
    assert reread["metrics"] == straight["metrics"] and reread["net_sha256"] == straight["net_sha256"]


OPTIONS = ("theta_grad=arm", "xi_per=batch", "price=complexity", "evaluate=hard", "prune_every=3", "theta_tol=0.3")


@pytest.mark.parametrize("more", [*(f"method.{option}" for option in OPTIONS), "schedule=simultaneous_pretrained"])
def test_the_options_run(more: str, tmp_path: Path) -> None:
    words: tuple[str, ...] = (
        *SHORT,
        *NET,
        "schedule.phases.train.epochs=3",
        "method.theta_start=0.8",
        "method.kappa=1",
    )
    if "pretrained" in more:
        words = (*words, "schedule.phases.pretrain.epochs=2")
    result, _ = run(tmp_path, *words, more)
    assert result["status"] == "complete" and result["cost"]["macs_removed"] > 0
    share = result["metrics"]["final"]["method"]["train_macs_share"]
    assert share < (4 / 3 if "arm" in more else 1)  # arm makes a third more of each step
    assert ("dense" in result["metrics"]) == ("pretrained" in more)


def test_the_weights_gradient_of_exact_is_that_of_all_states() -> None:
    torch.manual_seed(0)
    method, _, net = attached(mlp(), torch.zeros(1, 4), theta_grad="exact")
    batch = (torch.randn(5, 4), torch.randint(10, (5,)))
    terms = method.losses(net.train(), batch, TASK)
    (gate,) = bernoulli_gates(net).values()
    total = torch.zeros(())
    for state in itertools.product((0.0, 1.0), repeat=3):
        hidden = net[1](batch[0]).relu() * torch.tensor(state)
        total = total + nn.functional.cross_entropy(gate.layer(hidden), batch[1]) / 8
    assert float(terms["expected_nll"].detach()) == pytest.approx(float(total.detach()), abs=1e-5)
    assert float(terms["price"].detach()) == pytest.approx(3 * 0.5 * 5 / 1000)
    assert method.spent_macs() == 3 * 8 * (4 * 3 + 3 * 10) * 5


def test_arm_gives_theta_its_estimate_and_the_weights_the_first_pass() -> None:
    torch.manual_seed(0)
    method, _, net = attached(mlp(), torch.zeros(1, 4), theta_grad="arm")
    batch = (torch.randn(5, 4), torch.randint(10, (5,)))
    (gate,) = bernoulli_gates(net.train()).values()

    def each() -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none")

    torch.manual_seed(1)
    first, (found,) = arm_gradients([gate], each, 5)
    (weights,) = torch.autograd.grad(first.mean(), list(gate.layer.parameters())[:1])
    torch.manual_seed(1)
    terms = method.losses(net, batch, TASK)
    torch.stack(list(terms.values())).sum().backward()
    torch.testing.assert_close(gate.theta.grad, found + 5 / 1000)
    torch.testing.assert_close(gate.layer.weight.grad, weights)
    assert float(terms["price"].detach()) == pytest.approx(3 * 0.5 * 5 / 1000)
    assert method.spent_macs() == 4 * (4 * 3 + 3 * 10) * 5


def test_patience_counts_steps_in_a_row() -> None:
    method, _, net = attached(mlp(), torch.zeros(1, 4), prune_every=1, patience=3)
    (gate,) = bernoulli_gates(net).values()
    clock = Clock(step=100, num_steps=10_000, epoch=10, num_epochs=1000, lr=0.1)
    for value, left in ((0.0, 3), (0.0, 3), (0.5, 3), (0.0, 3), (0.0, 3), (0.0, 2)):
        gate.theta.data[0] = value
        method.after_step(net, clock)
        assert len(gate.theta) == left


def test_the_best_unit_of_a_layer_stays(caplog: pytest.LogCaptureFixture) -> None:
    method, _, net = attached(mlp(), torch.zeros(1, 4))
    (gate,) = bernoulli_gates(net).values()
    gate.theta.data = torch.tensor([0.1, 0.4, 0.2])
    with caplog.at_level("WARNING", logger="prunebench"):
        method.after_step(net, Clock(step=1, num_steps=4, epoch=0, num_epochs=2, lr=0.1))
    assert gate.alive.tolist() == [False, True, False] and gate.theta.tolist() == [1.0]
    assert "no unit of 1 is worth its price" in caplog.text
    # 0.4 and 0.2 were between 0.1 and 0.9, and 0.1 was not
    assert float(method.undecided) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("epochs", "drawn"), [(1, 1), (2, 1), (10, 9), (30, 27), (100, 90)])
def test_the_last_tenth_of_the_epochs_is_fine_tuning(epochs: int, drawn: int) -> None:
    method = SimultaneousVI(log_gamma=1.0)
    assert method._last_drawn_epoch(Clock.first(num_epochs=epochs, steps_per_epoch=5, lr=0.1)) == drawn


# -- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"theta_grad": "exact"},
            r"theta_grad=exact tries all states of the gates, and this net has 16; 12 are allowed",
        ),
        ({"log_gamma": {"7": 3.0}}, r"method\.log_gamma: '7' matches no layer"),
        ({"layers": ["x*"]}, r"method\.layers: 'x\*' matches no layer"),
    ],
)
def test_refused_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attached(mlp(16), torch.zeros(1, 4), **settings)


def test_a_table_of_prices_names_all_layers() -> None:
    net = lenet_like()
    with pytest.raises(UserError, match=r"log_gamma names no value for 5; add '\*'"):
        attached(net, torch.zeros(1, 1, 8, 8), log_gamma={"0": 2.0})
    method, _, net = attached(net, torch.zeros(1, 1, 8, 8), log_gamma={"*": 8.0, "0": 2.0})
    value = method._in_training.price(method._in_training.units.of(net)).item()
    assert value == pytest.approx((6 * 2.0 + 8 * 8.0) * 0.5 / 1000)


def test_a_net_without_a_place_for_gates_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UserError, match="none can have a gate"):
        attached(net, torch.zeros(1, 4))


def test_several_devices_are_refused_before_training(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, *SHORT, *NET, "trainer.devices=2", "trainer.strategy=ddp")
    with pytest.raises(UserError, match=r"smaller while it trains, which works on one device; use trainer\.devices=1"):
        assemble.build(config, tmp_path / "unused")
