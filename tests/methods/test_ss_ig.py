"""SS-IG against the numbers of its specification: prior, divergence, gates, counts, extraction, limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers import concrete_gates, kl
from prunebench.layers.inclusion_priors import edge_log_prior, node_log_priors
from prunebench.layers.spike_slab import SpikeSlab, SpikeSlabConv2d, SpikeSlabLinear
from prunebench.measure.layer_sizes import macs_with_bias
from prunebench.methods.bases.gaussian_nets import to_plain
from prunebench.methods.bases.spike_slab_nets import changed, divergence, log_priors, plan_of, spike_slab_layers
from prunebench.methods.ss_ig import SpikeSlabSelection
from prunebench.models.lenet import lenet_20_50_800_500
from prunebench.models.perceptron import Perceptron, mlp_784_400_400
from prunebench.surgery.graph import ChannelGraph
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

CONFORMANCE = {
    # two epochs close no gate that begins open: half open, the loss opens some and closes the others
    "ss_ig": Conformance(options=("method.inclusion=0.5", "method.kl_weight=1e-6", "method.num_samples=3")),
}
SMALL = {"in_features": 64, "hidden": (12, 9), "num_classes": 10}
PICTURE = torch.zeros(1, 1, 8, 8)


def method(**changes: Any) -> SpikeSlabSelection:
    settings: dict[str, Any] = {
        "selection": "node", "extraction": "median", "prior_std": 1.0, "prior_inclusion": "formula", "inclusion": 0.99,
        "spread": -6.0, "temperature": 0.5, "slab": "weight", "kaiming": True, "min_nodes": 1, "finetune_epochs": 1,
        "finetune_lr": 1e-3, "layers": ["*"], "kl_weight": 1.0, "kl_start": 0, "kl_warmup": 0, "num_samples": 3,
    }  # fmt: skip
    return SpikeSlabSelection(**{**settings, **changes})


def attached(
    built: SpikeSlabSelection, net: nn.Module | None = None, example: Tensor = PICTURE
) -> tuple[nn.Module, Any]:
    """A net under the method, with half of its gates closed, and its run."""
    torch.manual_seed(0)
    net = Perceptron(**SMALL, activation="silu") if net is None else net  # type: ignore[arg-type]
    made = bare_run(net, example, schedule="simultaneous")
    built.check(net, made)
    net = built.attach(net, made)
    built.kl_now.fill_(1.0)
    for layer in spike_slab_layers(net).values():
        for location in (layer.location, layer.bias_location):
            if location is not None:
                nn.init.uniform_(location, -2, 2)
    return net, made


# -- oracle 1: the prior


def test_prior_of_nodes() -> None:
    assert [math.exp(p) for p in node_log_priors([784, 400, 400], [400, 400, 10], 60000)] == pytest.approx(
        [0.001541135531, 0.002343842916], rel=1e-9
    )
    assert [math.exp(p) for p in node_log_priors([800, 800, 500], [800, 500, 10], 60000)] == pytest.approx(
        [0.000747653619, 0.001196246241], rel=1e-9
    )


def test_prior_of_edges() -> None:
    assert math.exp(edge_log_prior([784, 400, 400], [400, 400, 10], 60000)) == pytest.approx(5.63685e-8, rel=1e-6)
    assert math.exp(edge_log_prior([800, 800, 500], [800, 500, 10], 60000)) == pytest.approx(1.94934e-8, rel=1e-6)


def test_convolutions_have_the_priors_of_the_hidden_linear_layers() -> None:
    net = lenet_20_50_800_500()
    gated = dict.fromkeys(["conv1", "conv2", "fc1", "fc2"], "node")
    found = {name: math.exp(p) for name, p in log_priors(net, gated, ["fc3"], num_train=60000).items()}
    assert found == pytest.approx(
        {"fc1": 0.000747653619, "conv1": 0.000747653619, "fc2": 0.001196246241, "conv2": 0.001196246241}, rel=1e-9
    )
    edges = log_priors(net, dict.fromkeys(gated, "edge"), ["fc3"], num_train=60000)
    assert math.exp(edges["conv1"]) == pytest.approx(1.94934e-8, rel=1e-6)


def test_a_prior_of_ones_own() -> None:
    attached(built := method(prior_inclusion=0.2))
    assert built.log_priors == pytest.approx({"hidden.0": math.log(0.2), "hidden.1": math.log(0.2)})
    attached(built := method(prior_inclusion={"hidden.1": 1e-4}))
    formula = node_log_priors([64, 12, 9], [12, 9, 10], 4)
    assert built.log_priors == pytest.approx({"hidden.0": formula[0], "hidden.1": math.log(1e-4)})


# -- oracle 2: the divergence


def softplus_of(std: float) -> float:
    return math.log(math.expm1(std))


@torch.no_grad()
def test_divergence_of_one_node() -> None:
    layer = SpikeSlabLinear(2, 1)
    layer.weight.copy_(torch.tensor([[0.5, -0.2]]))
    layer.bias.fill_(0.1)
    layer.spread.copy_(torch.tensor([[softplus_of(0.1), softplus_of(0.2)]]))
    assert layer.bias_spread is not None and layer.location is not None
    layer.bias_spread.fill_(softplus_of(0.3))
    layer.location.fill_(math.log(0.7 / 0.3))
    assert divergence(layer, layer.stds(), math.log(0.1), 1.0).item() == pytest.approx(3.7177504846, rel=1e-6)
    slab = kl.gaussian(torch.tensor([0.5, -0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3]), 1.0)
    assert slab.tolist() == pytest.approx([1.93258509, 1.14943791, 0.75397280], rel=1e-6)
    rows = kl.gaussian_by_row(torch.tensor([[0.5, -0.2, 0.1]]), torch.tensor([[0.1, 0.2, 0.3]]), 1.0)
    assert 0.7 * rows.item() == pytest.approx(2.6851970668, rel=1e-6)


def test_divergences_of_a_gate_and_of_a_weight() -> None:
    location = torch.tensor(math.log(0.7 / 0.3), dtype=torch.float64)
    assert kl.bernoulli(location, math.log(0.1)).item() == pytest.approx(1.0325534177, rel=1e-9)
    location = torch.tensor(math.log(99.0), dtype=torch.float64)
    assert kl.bernoulli(location, math.log(0.001541135531)).item() == pytest.approx(6.3544973076, rel=1e-9)
    mean, std = torch.tensor(0.1, dtype=torch.float64), nn.functional.softplus(torch.tensor(-6.0, dtype=torch.float64))
    assert kl.gaussian(mean, std, 1.0).item() == pytest.approx(5.5062411625, rel=1e-9)


# -- oracle 3: the gates


def test_relaxed_gates() -> None:
    location, uniform = torch.tensor([0.0, 2.0, -2.0, -2.0]), torch.tensor([0.2, 0.2, 0.9, 0.5])
    soft = concrete_gates.relaxed(location, uniform, 0.5)
    assert soft.tolist() == pytest.approx([0.058824, 0.773365, 0.597353, 0.017986], abs=1e-6)
    location.requires_grad_()
    hard = concrete_gates.straight_through(location, uniform, 0.5)
    assert hard.tolist() == [0.0, 1.0, 1.0, 0.0]
    (slope,) = torch.autograd.grad(hard.sum(), location)
    torch.testing.assert_close(slope, 2 * soft * (1 - soft))


@pytest.mark.parametrize("location", [-1.5, 0.0, 2.0])
def test_a_gate_is_on_as_often_as_its_probability(location: float) -> None:
    uniform = torch.arange(100_000, dtype=torch.float64) / 100_000
    on = concrete_gates.straight_through(torch.tensor(location, dtype=torch.float64), uniform, 0.5)
    assert on.mean().item() == pytest.approx(1 / (1 + math.exp(-location)), abs=2e-5)


# -- oracle 4: counts


@pytest.mark.parametrize(
    ("net", "kept", "flops", "dense"),
    [
        (mlp_784_400_400, {"hidden.0": 68, "hidden.1": 40}, 56_550, 478_410),
        (lenet_20_50_800_500, {"conv1": 17, "conv2": 6, "fc1": 18, "fc2": 16}, 420_396, 2_949_030),
        (lenet_20_50_800_500, {"conv1": 18, "conv2": 5, "fc1": 42, "fc2": 32}, 418_996, 2_949_030),
    ],
)
def test_counts_of_the_authors(net: Any, kept: dict[str, int], flops: int, dense: int) -> None:
    graph = ChannelGraph.trace(net(), torch.zeros(1, 1, 28, 28))
    gates = {name: torch.arange(graph.layers[name].out_channels) < number for name, number in kept.items()}
    assert macs_with_bias(graph, plan_of(gates, graph)) == flops
    assert macs_with_bias(graph, plan_of({}, graph)) == dense
    assert graph.dense_params == (478_410 if net is mlp_784_400_400 else 1_071_880)


# -- oracle 5: masked and narrowed


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("selection", ["node", "edge"])
def test_the_small_net_is_the_most_likely_one(activation: str, selection: str) -> None:
    built = method(selection=selection)
    net, made = attached(built, Perceptron(**SMALL, activation=activation))  # type: ignore[arg-type]
    found = built.extract(net, made)
    x = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        assert float((found.net.eval()(x) - net.eval()(x)).abs().max()) < 1e-5
    if selection == "node":
        kept = found.achieved["gates_kept"]
        assert 0 < kept["hidden.0"] < 12 and 0 < kept["hidden.1"] < 9
        shapes = {name: tuple(p.shape) for name, p in found.net.named_parameters()}
        assert shapes["hidden.0.weight"] == (kept["hidden.0"], 64)
        assert shapes["hidden.1.weight"] == (kept["hidden.1"], kept["hidden.0"])


@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_filters_and_their_columns_behind_the_flatten(activation: str) -> None:
    built = method()
    dense = lenet_20_50_800_500(image_size=16, activation=activation)
    net, made = attached(built, dense, torch.zeros(1, 1, 16, 16))
    found = built.extract(net, made)
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        assert float((found.net.eval()(x) - net.eval()(x)).abs().max()) < 1e-5
    assert found.plan is not None and set(found.plan.keep) == {"conv1", "conv2", "fc1", "fc2"}


def test_a_layer_keeps_its_most_probable_nodes() -> None:
    layer = SpikeSlabLinear(3, 5, min_kept=2)
    assert layer.location is not None
    nn.init.constant_(layer.location, -3.0)
    layer.location.data[[1, 4]] = torch.tensor([-1.0, -2.0])
    kept = layer.kept()
    assert kept is not None and kept.tolist() == [False, True, False, False, True]


# -- oracle 6: gradients


def test_closed_gates_leave_the_divergence_alone() -> None:
    built = method(selection="node", prior_inclusion=0.1)
    net, made = attached(built)
    gates = [layer for layer in spike_slab_layers(net).values() if layer.location is not None]
    for layer in gates:
        nn.init.constant_(layer.location, -40.0)  # type: ignore[arg-type]
    batch = (torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 1, 9]))
    losses = built.losses(net.train(), batch, made.task)
    found = [p for layer in gates for p in (layer.weight, layer.bias, layer.spread, layer.bias_spread)]
    slopes = torch.autograd.grad(losses["ce"], found, retain_graph=True)  # type: ignore[arg-type]
    assert all((slope == 0).all() for slope in slopes)
    layer = gates[0]
    assert layer.location is not None
    nn.init.uniform_(layer.location, -2, 2)
    total = divergence(layer, layer.stds(), math.log(0.1), 1.0)
    (slope,) = torch.autograd.grad(total, layer.location)
    gamma = torch.sigmoid(layer.location.detach().double())
    stds = layer.stds()
    assert stds[1] is not None
    slab = kl.gaussian(layer.weight, stds[0], 1.0).sum(1) + kl.gaussian(layer.bias, stds[1], 1.0)
    expected = gamma * (1 - gamma) * ((gamma * 0.9 / (0.1 * (1 - gamma))).log() + slab.detach())
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-5)


# -- oracle 7: limits


@pytest.mark.parametrize("selection", ["node", "edge"])
def test_open_gates_of_a_certain_prior_are_the_plain_variational_net(selection: str) -> None:
    batch, task = (torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 1, 9])), Classification(num_classes=10)
    found = []
    for kind in (selection, "none"):
        built = method(selection=kind, prior_inclusion=1 - 1e-15)
        net, _ = attached(built)
        for layer in spike_slab_layers(net).values():
            for location in (layer.location, layer.bias_location):
                if location is not None:
                    nn.init.constant_(location, 50.0)
        spread = [p for name, p in net.named_parameters() if "spread" in name or name.endswith(("weight", "bias"))]
        draws = iter(torch.randn(100, 200, generator=torch.Generator().manual_seed(1)))
        layers = spike_slab_layers(net)
        for layer in layers.values():  # the same noise, wherever the stream of random numbers is
            noise = next(draws)
            std, bias_std = layer.stds()
            layer.held = (
                layer.weight + std * noise[0] * torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight),
                layer.bias + bias_std * noise[1],
            )
            gates = layer.gates()
            assert gates is None or bool((gates == 1).all())
        total = task.losses(net, batch)["ce"] + built.divergence(net) / 1000
        found.append([total, *torch.autograd.grad(total, spread)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# -- the layers


def test_initial_values() -> None:
    built = method()
    made = bare_run(dense := mlp_784_400_400(), torch.zeros(1, 1, 28, 28), schedule="simultaneous")
    built.check(dense, made)
    first, _, out = spike_slab_layers(built.attach(dense, made)).values()
    assert first.location is not None and first.location.detach().unique().tolist() == pytest.approx([4.59512])
    assert out.location is None and first.std().mean().item() == pytest.approx(0.0024757, rel=1e-4)
    bound = math.sqrt(6 / 784)
    assert 0.99 * bound < first.weight.abs().max().item() <= bound
    assert first.bias.abs().max().item() <= 1 / 28


@torch.no_grad()
def test_one_gate_for_the_weights_and_the_bias_of_a_node() -> None:
    torch.manual_seed(0)
    for layer in (SpikeSlabLinear(3, 400, inclusion=0.0), SpikeSlabConv2d(2, 400, 3, inclusion=0.0)):
        weight, bias = layer.draw()
        assert bias is not None
        off = (weight.flatten(1) == 0).all(1)
        assert torch.equal(off, bias == 0) and not (weight[~off] == 0).any()
        assert 140 < int(off.sum()) < 260


@torch.no_grad()
def test_a_layer_is_exported_at_its_means() -> None:
    layer, x = SpikeSlabLinear(3, 4, inclusion=-1.0, min_kept=2).eval(), torch.randn(5, 3)
    layer.location.copy_(torch.tensor([-3.0, -1.0, -2.0, -4.0]))
    assert torch.equal((layer(x) != 0).any(0), torch.tensor([False, True, True, False]))
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


@torch.no_grad()
@pytest.mark.parametrize("selection", ["node", "edge", "none"])
def test_local_reparam_has_the_moments_of_drawn_weights(selection: str) -> None:
    torch.manual_seed(0)
    layer = SpikeSlabLinear(3, 2, selection=selection, spread=-0.5, inclusion=0.4, slab="local_reparam")
    x = torch.randn(1, 3)
    local = torch.cat([layer.train()(x) for _ in range(5_000)])
    layer.sampling = True
    drawn = torch.cat([layer.eval()(x) for _ in range(5_000)])
    torch.testing.assert_close(local.mean(0), drawn.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(local.std(0), drawn.std(0), rtol=0.06, atol=0)


@torch.no_grad()
def test_settled_gates_never_move_and_cost_no_slab_when_closed() -> None:
    net, _ = attached(method())
    settled = changed(net, SpikeSlab.settle)
    layer, before = spike_slab_layers(settled)["hidden.0"], spike_slab_layers(net)["hidden.0"]
    kept, gates = before.kept(), layer.gates()
    assert kept is not None and gates is not None and torch.equal(gates > 0, kept)
    assert layer.location is not None and not layer.location.requires_grad
    slab = kl.gaussian_by_row(layer.weight, layer.std(), 1.0) + kl.gaussian(layer.bias, layer.stds()[1], 1.0)  # type: ignore[arg-type]
    closed = -math.log(1 - 0.1)  # of a node that was never in the prior's net
    expected = slab[kept].sum() + int(kept.sum()) * math.log(10) + int((~kept).sum()) * closed
    torch.testing.assert_close(divergence(layer, layer.stds(), math.log(0.1), 1.0), expected)
    assert type(to_plain(net).get_submodule("hidden.0")) is nn.Linear


# -- runs


def words(*changes: str) -> tuple[str, ...]:
    fast = ("model=mlp_784_400_400", "schedule.phases.train.lr=0.02", "method.inclusion=0.6", "method.num_samples=3")
    return (*SHORT, "method=ss_ig", *fast, *changes)


@pytest.mark.parametrize(
    "extraction", ["median", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ensemble", "freeze_finetune"))]
)
def test_a_run_with_each_extraction(extraction: str, tmp_path: Path) -> None:
    result, _ = run(tmp_path, *words(f"method.extraction={extraction}", "method.finetune_epochs=2"))
    stages, final = result["metrics"], result["metrics"]["final"]
    posterior = final if extraction == "ensemble" else stages["before_cut"]
    assert posterior["num_predictions"] == 3
    own = posterior["method"]
    assert set(own) == {
        "draw_accuracy", "draw_nll", "mean_logits_accuracy", "draw_macs_bias", "last_draw_macs_bias",
        "draw_kept_per_layer",
    }  # fmt: skip
    assert own["draw_macs_bias"] < 190_410  # of 64-400-400-10 with its biases
    phases = [phase["name"] for phase in result["phases"]]
    assert phases == (["train", "freeze_finetune"] if extraction == "freeze_finetune" else ["train"])
    if extraction == "ensemble":
        assert result["cost"]["final"]["macs_all_predictions"] == 3 * result["cost"]["final"]["macs"]
        assert "saved_net" in stages
    else:
        assert result["cost"]["macs_removed"] > 0 and final["num_predictions"] == 1
        assert result["equivalence"]["max_abs_diff"] < 1e-4


@pytest.mark.slow
def test_edges_leave_zeros_and_plain_nets_everything(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *words("method.selection=edge"))
    assert result["cost"]["final"]["nonzero_params"] < 0.9 * result["cost"]["dense"]["nonzero_params"]
    result, _ = run(tmp_path, *words("method.selection=none"))
    assert result["cost"]["macs_removed"] == 0 and result["budget"]["gates_kept"] == {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selection": "filter"}, "selection must be one of node, edge, none, got 'filter'"),
        ({"extraction": "mean"}, "extraction must be one of median, ensemble, freeze_finetune"),
        ({"prior_std": 0.0}, "prior_std must be a number above 0"),
        ({"prior_inclusion": "flat"}, "prior_inclusion must be"),
        ({"prior_inclusion": 1.0}, "prior_inclusion must be"),
        ({"inclusion": 1.0}, "inclusion must be a number in"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"min_nodes": 0}, "min_nodes must be a whole number of at least 1"),
        ({"extraction": "ensemble", "num_samples": None}, "give method.num_samples"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        method(**changes)


def test_a_prior_for_no_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.prior_inclusion: 'conv' matches no layer"):
        attached(method(prior_inclusion={"conv": 0.1}))
