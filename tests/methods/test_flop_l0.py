from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers.convert import gated_layers
from prunebench.layers.factorised import FactorisedLinear
from prunebench.layers.gated import Gated, HardConcreteGate
from prunebench.layers.selected import SelectedLinear
from prunebench.methods.flop_l0 import FlopL0, expected_sparsity, lagrangian
from prunebench.models.lenet import lenet300_100
from prunebench.run.bare import BareRun
from prunebench.training.optimizers import build_optimizer
from tests.bare import bare_run
from tests.conformance.settings import Conformance

CONFORMANCE = {
    "flop_l0": Conformance(
        options=("method.drop_rate=0.5", "method.gate_lr=0.3", "method.target_warmup=0.0"), may_miss=True
    )
}

TASK = Classification(num_classes=10)
PHASE = Phase(name="train", epochs=1, lr=1e-3, optimizer="adam", weight_decay=0.1)


def digits_net() -> nn.Module:
    torch.manual_seed(0)
    return lenet300_100(image_size=8)


def recurrent_like() -> nn.Module:
    """A plain layer and factored pairs, as in the paper's SRU."""
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 24, bias=False))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16, bias=False), nn.Tanh(), pair, nn.Tanh(), nn.Linear(24, 10))


def gated(net: nn.Module | None = None, **options: Any) -> tuple[nn.Module, FlopL0, BareRun]:
    net = net or digits_net()
    run = bare_run(net, torch.zeros(1, 1, 8, 8), schedule="simultaneous")
    method = FlopL0(**{"target_sparsity": 0.7, "drop_rate": 0.5, "target_warmup": 0.0, **options})
    method.check(net, run)
    return method.attach(net, run), method, run


def layers_of(net: nn.Module) -> dict[str, Gated]:
    return dict(gated_layers(net))


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(32, 1, 8, 8), torch.randint(10, (32,))


def test_lagrangian_and_its_gradients() -> None:
    multipliers = torch.tensor([-0.1, 0.2], requires_grad=True)
    s = torch.tensor(0.3, requires_grad=True)
    value = lagrangian(multipliers, s, 0.8)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.10)
    assert s.grad is not None and float(s.grad) == pytest.approx(-0.30)
    assert multipliers.grad is not None and multipliers.grad.tolist() == pytest.approx([-0.5, 0.25])


def test_first_step_of_ascent() -> None:
    net, method, _ = gated(multiplier_lr=0.02)
    groups = method.param_groups(net, PHASE)
    optimizer = build_optimizer(PHASE, groups)
    torch.stack(list(method.losses(net, batch(), TASK).values())).sum().backward()
    optimizer.step()
    # the sparsity is below the target: lambda_1 falls, lambda_2 rises, each by its learning rate
    assert method.multipliers.tolist() == pytest.approx([-0.02, 0.02], abs=1e-6)
    spared = [g for g in optimizer.param_groups if g["weight_decay"] == 0.0]
    assert [g["clip"] for g in spared] == [False, False]
    assert [g["maximize"] for g in optimizer.param_groups] == [False, False, True]


@pytest.mark.parametrize(("k", "target"), [(1, 0.8 / 64000), (1000, 0.0125), (32000, 0.4), (64000, 0.8), (300000, 0.8)])
def test_the_target_of_update_k_rises_linearly_from_1(k: int, target: float) -> None:
    net = digits_net()
    first = Clock.first(num_epochs=200_000, steps_per_epoch=2, lr=1e-3)
    for share, expected in ((0.16, target), (0.0, 0.8)):
        method = FlopL0(target_sparsity=0.8, target_warmup=share)
        if k == 1:
            method.start_epoch(net, first)
        else:
            method.after_step(net, first.at(k - 2))
        assert method.target == pytest.approx(expected)


@pytest.mark.parametrize(("drop_rate", "expected"), [(0.5, 1 / 12), (0.05, 1 / 210)])
def test_expected_sparsity_at_the_start(drop_rate: float, expected: float) -> None:
    net, _, _ = gated(drop_rate=drop_rate)
    layers = list(layers_of(net).values())
    for layer in layers:
        assert isinstance(layer.gate, HardConcreteGate)
        nn.init.constant_(layer.gate.get_parameter("log_alpha"), math.log((1 - drop_rate) / drop_rate))
    assert float(expected_sparsity(layers).detach()) == pytest.approx(expected, abs=1e-6)


def test_expected_sparsity_counts_parameters_not_gates() -> None:
    net, _, _ = gated(recurrent_like(), plain="inputs")
    plain, pair = layers_of(net).values()
    assert [layer.num_params for layer in (plain, pair)] == [64 * 16, 4 * (16 + 24)]
    nn.init.constant_(plain.gate.get_parameter("log_alpha"), -50.0)  # the plain layer is off, the pair on
    nn.init.constant_(pair.gate.get_parameter("log_alpha"), 50.0)
    assert float(expected_sparsity([plain, pair]).detach()) == pytest.approx(1024 / (1024 + 160), abs=1e-6)


def test_the_output_layer_is_left_alone_and_others_are_found() -> None:
    net, method, _ = gated()
    assert method.names == ["fc1", "fc2"]
    assert list(layers_of(net)) == ["fc1", "fc2"]
    # ranks that keep the parameters: 64 * 300 / 364 and 300 * 100 / 400
    assert [layer.gate.size for layer in layers_of(net).values()] == [52, 75]
    net, method, _ = gated(recurrent_like(), plain="inputs")
    assert method.names == ["1", "3"]
    assert isinstance(net[3].layer, FactorisedLinear) and net[3].layer.num_components == 4


def test_attaching_again_changes_nothing() -> None:
    net, method, run = gated()
    assert method.attach(net, run) is net


def test_pairs_keep_their_weights_and_drop_their_own_module() -> None:
    dense = recurrent_like()
    net, _, _ = gated(dense, plain="inputs")
    for layer in layers_of(net).values():
        x = torch.randn(5, layer.layer.config()["in_features"])
        name = "1" if layer is net[1] else "3"
        torch.testing.assert_close(layer.layer(x), dense.get_submodule(name)(x))


def test_one_cut_factorises_and_the_next_step_gates() -> None:
    dense = digits_net()
    run = bare_run(dense, torch.zeros(1, 1, 8, 8))
    method = FlopL0(target_sparsity=0.5, rank="full")
    method.check(dense, run)
    cut = method.prune(dense, run).net
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(cut(x), dense(x), atol=1e-5, rtol=1e-4)  # full rank: the SVD is exact
    assert isinstance(cut.fc1, FactorisedLinear) and not layers_of(cut)
    net = method.attach(cut, run)
    torch.testing.assert_close(net.fc1.layer.first, cut.fc1.first)


def test_extracted_net_equals_gated_net_and_has_the_parameters_that_are_left() -> None:
    net, method, run = gated(merge=False)
    torch.manual_seed(1)
    for layer in layers_of(net).values():
        nn.init.normal_(layer.gate.get_parameter("log_alpha"), -2.0, 2.0)
    compact = run.note(method.extract(net.eval(), run))
    x = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(compact(x), net(x), atol=1e-5, rtol=1e-5)
    assert run.difference is not None and run.difference < 1e-5 and not run.plan.keep
    kept = {name: int((layer.scales() > 0).sum()) for name, layer in layers_of(net).items()}
    assert 0 < kept["fc1"] < 52 and 0 < kept["fc2"] < 75
    by_hand = kept["fc1"] * (64 + 300) + kept["fc2"] * (300 + 100)
    total = 52 * 364 + 75 * 400
    assert (run.achieved["kept_params"], run.achieved["gated_params"]) == (by_hand, total)
    assert run.achieved["reached"] == pytest.approx(1 - by_hand / total)
    rest = 300 + 100 + 1010  # biases and the output layer
    assert sum(p.numel() for p in compact.parameters()) == by_hand + rest


def test_a_layer_that_is_gone_leaves_its_bias_or_zeros() -> None:
    net, method, run = gated(recurrent_like(), plain="inputs")
    for layer in layers_of(net).values():
        nn.init.constant_(layer.gate.get_parameter("log_alpha"), -50.0)
    compact = run.note(method.extract(net.eval(), run))
    assert isinstance(compact[1], SelectedLinear) and isinstance(compact[3], FactorisedLinear)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(compact(x), compact[5].bias.expand(2, 10))
    assert run.achieved["reached"] == 1.0


def test_training_reaches_the_target_and_multipliers_take_their_signs() -> None:
    net, method, _ = gated(target_sparsity=0.6, gate_lr=0.05, multiplier_lr=0.05)
    optimizer = build_optimizer(PHASE, method.param_groups(net, PHASE))
    first = Clock.first(num_epochs=1, steps_per_epoch=500, lr=PHASE.lr)
    x, y = batch()
    seen = []
    for step in range(500):
        optimizer.zero_grad()
        torch.stack(list(method.losses(net.train(), (x, y), TASK).values())).sum().backward()
        optimizer.step()
        method.after_step(net, first.at(step))
        seen.append(method.report(net))
    assert seen[5]["lambda_1"] < 0 < seen[5]["lambda_2"]
    last = seen[-1]
    assert last["expected_sparsity"] == pytest.approx(0.6, abs=0.02)
    assert last["sparsity"] == pytest.approx(last["expected_sparsity"], abs=0.02)  # rounding of each layer
    assert method.selectable(net)
    assert last["target_sparsity"] == 0.6


def test_the_report_says_how_many_gates_are_undecided() -> None:
    net, method, _ = gated(target_sparsity=0.7)
    gates = [layer.gate.get_parameter("log_alpha") for layer in layers_of(net).values()]
    size = sum(len(gate) for gate in gates)
    with torch.no_grad():
        for gate in gates:
            gate.fill_(6.0)
        gates[0][:2] = -math.log(11)  # open in half of the draws
        gates[0][2] = -9.0  # never open
    assert method.report(net)["undecided"] == pytest.approx(2 / size)


def test_hardly_pruned_epochs_cannot_be_the_best() -> None:
    net, method, _ = gated(target_sparsity=0.7)
    assert not method.selectable(net)
    for layer in layers_of(net).values():
        nn.init.constant_(layer.gate.get_parameter("log_alpha"), -math.log(11))  # P(nonzero) = 1/2
    assert not method.selectable(net)
    method.target_sparsity = 0.51
    assert method.selectable(net)


def test_a_resumed_phase_has_its_multipliers_and_its_target() -> None:
    net, method, _ = gated(target_warmup=0.5)
    first = Clock.first(num_epochs=10, steps_per_epoch=2, lr=1e-3)
    with torch.no_grad():
        method.multipliers.copy_(torch.tensor([-1.0, 2.0]))
    method.start_epoch(net, first)
    for step in range(6):
        method.after_step(net, first.at(step))
    again = FlopL0(target_sparsity=0.7, target_warmup=0.5)
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    again.start_epoch(net, first.at(6))
    assert again.multipliers.tolist() == [-1.0, 2.0]
    assert again.target == method.target == pytest.approx(0.7 * 7 / 10)  # that of the seventh update


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sparsity": 0.0}, r"target_sparsity must be a number in \(0, 1\), got 0.0"),
        ({"drop_rate": 1}, r"drop_rate must be a number in \(0, 1\), got 1"),
        ({"layers": ["fc4"]}, r"method\.layers: 'fc4' matches no layer.*fc"),
        ({"layers": ["fc3"]}, "leaves no layer to prune; the net's linear layers and convolutions are fc1, fc2, fc3"),
        ({"plain": "input"}, "plain must be one of factorise, inputs, got 'input'; did you mean inputs"),
        ({"rank": "half"}, "rank must be one of preserve, full or a whole number of at least 1"),
        ({"init": "zeros"}, "init must be one of svd, random"),
        ({"target_warmup": 1.5}, r"target_warmup must be a number in \[0, 1\] \(a share of the phase\), got 1.5"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gated(**options)


def test_the_papers_transformer_xl_has_20568_gates() -> None:
    ranks = {"qkv": (512, 1536), "o": (512, 512), "r": (512, 512), "ff1": (512, 2048), "ff2": (2048, 512)}
    layer = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in ranks.items()})
    from prunebench.layers.convert import factorise

    found = [factorise(layer[name], rank="preserve", init="random").num_components for name in ranks]
    assert found == [384, 256, 256, 409, 409]
    assert 12 * sum(found) == 20568
