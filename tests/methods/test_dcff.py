"""DCFF: banks, slots, the frozen choice of the official code, and that the fused net is the small net."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.errors import UserError
from prunebench.layers.fused import FusedConv2d, fused_layers
from prunebench.measure import cost
from prunebench.methods.dcff import DCFF, Temperature
from prunebench.models.densenet_cifar import densenet40
from prunebench.models.googlenet_cifar import Inception
from prunebench.models.resnet import resnet50
from prunebench.models.resnet_cifar import CifarResNet, resnet20
from prunebench.models.vgg_cifar import vgg11
from prunebench.run.bare import BareRun
from tests.bare import bare_run
from tests.kit import SHORT, run

FILTERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]).view(4, 2, 1, 1)
PICTURE = torch.zeros(1, 3, 8, 8)


def layer_of(filters: torch.Tensor, *, num_outputs: int, bias: bool = False) -> FusedConv2d:
    layer = FusedConv2d(nn.Conv2d(filters.shape[1], num_outputs, 1, bias=bias), num_filters=len(filters))
    with torch.no_grad():
        layer.weight.copy_(filters)
    return layer


def clock(epoch: int, num_epochs: int = 300) -> Clock:
    return Clock(step=epoch, num_steps=num_epochs, epoch=epoch, num_epochs=num_epochs, lr=0.1)


def small(width: int = 4, blocks: int = 2) -> CifarResNet:
    return CifarResNet(blocks=blocks, num_classes=10, in_channels=3, shortcut="A", width=width)


def trained(method: DCFF, net: nn.Module, example: torch.Tensor = PICTURE) -> tuple[nn.Module, BareRun]:
    """The fused net with random norms after the choice of the first epoch, and its run."""
    bare = bare_run(net.eval(), example, schedule="scratch")
    method.check(bare.template, bare)
    net = method.fresh(bare.note(method.prune(bare.template, bare)), bare)
    method.start_epoch(net, clock(0))
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_(), norm.running_mean.normal_()
    return net.eval(), bare


# -- one layer


def test_the_layer_computes_with_averages_and_shares_their_gradient() -> None:
    layer = layer_of(FILTERS, num_outputs=2)
    DCFF(prune_ratio=0.5).start_epoch(nn.Sequential(layer), clock(0))
    assert layer.slots.tolist() == [2, 3]
    weight, bias = layer.fused()
    assert bias is None
    assert weight.flatten().tolist() == pytest.approx([0.148415, 1.661189, 2.880826, 3.878519], abs=1e-5)
    x = torch.randn(3, 2, 4, 4)
    assert torch.allclose(layer(x), F.conv2d(x, weight))
    weight.backward(torch.eye(2).view(2, 2, 1, 1))
    expected = [[0.106615, 0.006446], [0.084197, 0.010928], [0.787783, 0.025994], [0.021406, 0.956633]]
    assert torch.allclose(layer.weight.grad.flatten(1), torch.tensor(expected), atol=1e-6)
    assert not layer.proxies.requires_grad


def test_biases_are_averaged_but_have_no_part_in_distances() -> None:
    plain, biased = layer_of(FILTERS, num_outputs=2), layer_of(FILTERS, num_outputs=2, bias=True)
    for layer in (plain, biased):
        DCFF(prune_ratio=0.5).start_epoch(nn.Sequential(layer), clock(0))
    assert torch.equal(plain.proxies, biased.proxies)
    found = biased.fused()[1]
    assert found is not None and torch.equal(found, biased.proxies @ biased.bias)
    x = torch.randn(2, 2, 3, 3)
    assert torch.allclose(biased.plain()(x), biased(x), atol=1e-6)


def test_after_the_first_epoch_single_filters_are_left_and_only_they_learn() -> None:
    layer = layer_of(FILTERS, num_outputs=2)
    method = DCFF(prune_ratio=0.5)
    method.start_epoch(nn.Sequential(layer), clock(0))
    method.start_epoch(nn.Sequential(layer), clock(1))
    # I / T is now the sum of distances, 8 for the first filter and 7.84 for the third: it takes the third's slot
    assert layer.slots.tolist() == [0, 3]
    assert method.report(nn.Sequential(layer)) == {"slot_changes": 1, "frozen_layers": 0, "own_share": 1.0}
    assert torch.equal(layer.fused()[0], FILTERS[[0, 3]])
    layer.fused()[0].sum().backward()
    assert layer.weight.grad.abs().sum((1, 2, 3)).tolist() == [2, 0, 0, 2]


def test_the_official_choice_is_frozen_on_random_weights() -> None:
    layer = layer_of(FILTERS, num_outputs=2)
    method = DCFF(prune_ratio=0.5, score="official", slot_assignment="topk")
    method.start_epoch(nn.Sequential(layer), clock(0))
    assert layer.slots.tolist() == [3, 2]  # in the order of their scores
    scores = layer.scores.clone()
    with torch.no_grad():
        layer.weight[1] = 100.0  # far from all others by now
    for epoch in (1, 2, 10):
        method.start_epoch(nn.Sequential(layer), clock(epoch))
        assert method.report(nn.Sequential(layer))["frozen_layers"] == 1
        assert torch.equal(layer.scores, scores) and layer.slots.tolist() == [3, 2]
        assert torch.equal(layer.fused()[0], layer.weight[[3, 2]])
    DCFF(prune_ratio=0.5).start_epoch(nn.Sequential(layer), clock(1))
    assert 1 in layer.slots.tolist()


def test_a_random_layer_is_frozen_as_the_specification_measured() -> None:
    """64 filters of 64 x 3 x 3 at PyTorch's and at Kaiming's values: all scores finite at epoch 0, none later."""
    for init in (lambda w: None, nn.init.kaiming_normal_):
        layer = FusedConv2d(nn.Conv2d(64, 32, 3), num_filters=64)
        init(layer.weight)
        method = DCFF(prune_ratio=0.5, score="official")
        for epoch, frozen in ((0, 0), (1, 1), (2, 1)):
            method.start_epoch(nn.Sequential(layer), clock(epoch))
            assert method.report(nn.Sequential(layer))["frozen_layers"] == frozen
        if init is nn.init.kaiming_normal_:
            continue
        method.start_epoch(nn.Sequential(layer), clock(0))
        assert method.report(nn.Sequential(layer))["own_share"] == pytest.approx(0.03, abs=0.02)


def test_a_score_that_cannot_be_computed_is_said() -> None:
    layer = layer_of(1e4 * FILTERS, num_outputs=2)
    with pytest.raises(UserError, match=r"the formula of method.score=official underflows; use method.score=logspace"):
        DCFF(prune_ratio=0.5, score="official").start_epoch(nn.Sequential(layer), clock(0))
    DCFF(prune_ratio=0.5).start_epoch(nn.Sequential(layer), clock(0))


def test_a_whole_layer_is_fused_too_and_becomes_itself() -> None:
    layer = layer_of(FILTERS, num_outputs=4)
    method = DCFF(prune_ratio=0.0)
    method.start_epoch(nn.Sequential(layer), clock(0))
    assert not torch.allclose(layer.fused()[0], FILTERS, atol=0.1)
    method.start_epoch(nn.Sequential(layer), clock(200))
    assert layer.slots.tolist() == [0, 1, 2, 3] and torch.equal(layer.fused()[0], FILTERS)


def test_equal_filters_become_their_common_one() -> None:
    layer = layer_of(torch.full((4, 2, 1, 1), 0.7), num_outputs=2)
    DCFF(prune_ratio=0.5).start_epoch(nn.Sequential(layer), clock(0))
    assert torch.allclose(layer.fused()[0], torch.full((2, 2, 1, 1), 0.7))


def test_between_two_choices_the_averages_stay() -> None:
    layer = layer_of(FILTERS, num_outputs=2)
    method = DCFF(prune_ratio=0.5, update_every_epochs=2)
    method.start_epoch(nn.Sequential(layer), clock(0))
    before = layer.proxies.clone()
    method.start_epoch(nn.Sequential(layer), clock(1))
    assert torch.equal(layer.proxies, before)
    method.start_epoch(nn.Sequential(layer), clock(2))
    assert not torch.equal(layer.proxies, before)


# -- whole nets


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.one = Inception(in_channels=6, channels=(4, 4, 6, 4, 5, 3))
        self.two = Inception(in_channels=18, channels=(4, 4, 6, 4, 5, 3))
        self.linear = nn.Linear(18, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.two(self.one(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: vgg11(width=4, conv_bias=True), 32),
        (small, 8),
        (lambda: CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="B", width=6), 8),
        (Concatenated, 8),
        (lambda: densenet40(growth=4, stem=6), 8),
    ],
    ids=["plain", "zero-padded shortcuts", "projections", "branches", "dense"],
)
def test_the_small_net_computes_what_the_fused_net_does(build: Any, size: int) -> None:
    method = DCFF(prune_ratio=0.4)
    net, bare = trained(method, build(), torch.zeros(1, 3, size, size))
    found = method.extract(net, bare)
    assert fused_layers(net) and not fused_layers(found.net)
    assert found.max_abs_diff is not None and found.max_abs_diff < 1e-5
    assert {type(module) for module in found.net.modules()}.isdisjoint({FusedConv2d})
    counted = cost.count(found.net, bare.example)
    assert (counted.macs, counted.params) == (bare.graph.macs(bare.plan), bare.graph.params(bare.plan))
    assert bare.count(net).macs == counted.macs  # in training it computes as much, beside one product a step
    assert sum(p.numel() for p in net.parameters()) > counted.params


def test_all_convolutions_but_shortcuts_have_banks_as_large_as_the_dense_net_s() -> None:
    rates = {"layer2.0.conv2": 0.25, "layer3.0.conv2": 0.25}
    net, bare = trained(DCFF(prune_ratio=rates), resnet20(shortcut="B", width=4))
    layers = fused_layers(net)
    assert len(layers) == 19 and not any("shortcut" in name for name in layers)
    assert {name: layer.num_filters for name, layer in layers.items()} == {
        name: bare.graph.layers[name].out_channels for name in layers
    }
    # a stage has one width, that of the shortcut too
    widths = {name: len(kept) for name, kept in bare.plan.keep.items()}
    assert widths == {n: 6 for n in bare.graph.layers if n.startswith("layer2") and "conv1" not in n} | {
        n: 12 for n in bare.graph.layers if n.startswith("layer3") and "conv1" not in n
    }


def test_stages_lie_inside_each_other_whatever_their_rates() -> None:
    """ResNet-110's rates 0.6, 0.2, 0.5: 6, 25 and 32 of 16, 32 and 64 channels, without a wider sum."""
    rates = {"conv1": 0.6, "layer2.0.conv2": 0.2, "layer3.0.conv2": 0.5}
    _, bare = trained(DCFF(prune_ratio=rates), small(width=16, blocks=1))
    live, _ = bare.graph.live(bare.plan)
    sums = [live[step.index].bit_count() for step in bare.graph.steps if type(step).__name__ == "Add"]
    assert sums == [6, 25, 32]
    bare = bare_run(small(width=16, blocks=1), PICTURE, schedule="scratch")
    with pytest.raises(UserError, match="a stage keeps fewer channels than its shortcut brings"):
        DCFF(prune_ratio={"layer2.0.conv2": 0.9}).check(bare.template, bare)


@pytest.mark.parametrize(("width", "rate", "kept"), [(160, 0.9, 15), (320, 0.9, 31), (10, 0.9, 1), (64, 0.8, 12)])
def test_widths_are_truncated_with_the_noise_of_floating_point(width: int, rate: float, kept: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    bare = bare_run(net, PICTURE, schedule="scratch")
    plan = DCFF(prune_ratio=rate).prune(bare.template, bare).plan
    assert plan is not None and len(plan.keep["0"]) == kept


@pytest.mark.slow
def test_resnet50_step_b() -> None:
    rates = {"layer[12].*.conv1": 0.6, "layer3.[0-2].conv1": 0.6, "layer[34].*.conv1": 0.5, "layer?.0.conv3": 0.2}
    rates |= {"layer[12].*.conv2": 0.5, "layer3.[0-2].conv2": 0.5, "layer[34].*.conv2": 0.4}
    bare = bare_run(resnet50(), torch.zeros(1, 3, 224, 224), schedule="scratch")
    bare.carry_out = False
    method = DCFF(prune_ratio=rates)
    bare.note(method.prune(bare.template, bare))
    fused = method.fresh(bare.template, bare)
    assert len(fused_layers(fused)) == 49  # 53 convolutions, four shortcuts
    assert bare.graph.params(bare.plan) == 10_581_581


def test_weights_are_drawn_by_the_net_s_own_rule() -> None:
    torch.manual_seed(0)
    net, _ = trained(DCFF(prune_ratio=0.5), small(width=16, blocks=1))
    layer = fused_layers(net)["layer3.0.conv2"]
    assert layer.weight.shape == (64, 32, 3, 3)  # by fan-out of the bank
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_attach_does_nothing_the_second_time() -> None:
    method = DCFF(prune_ratio=0.5)
    net, bare = trained(method, small())
    assert method.attach(net, bare) is net
    groups = method.param_groups(net, Phase(name="train", epochs=1, lr=0.1))
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in net.parameters()}
    again = DCFF(prune_ratio=0.5).fresh(bare.note(method.prune(bare.template, bare)), bare)
    drawn = [layer.weight for layer in fused_layers(again).values()]
    assert all(torch.equal(a, b.weight) for a, b in zip(drawn, fused_layers(net).values(), strict=True))
    assert fused_layers(copy.deepcopy(net)).keys() == fused_layers(net).keys()


def test_a_run_says_both_counts(tmp_path: Path) -> None:
    options = ("model.width=4", "schedule=scratch_e", "method.prune_ratio=0.4")
    result, _ = run(tmp_path, *SHORT, "method=dcff", *options)
    assert {"dense", "final"} <= result["metrics"].keys()
    budget = result["budget"]
    # 2 for each element of a norm layer; no convolution of it has a bias
    elements = {"dense": 7 * 4 * 64 + 6 * 8 * 16 + 6 * 16 * 4, "final": 7 * 2 * 64 + 6 * 4 * 16 + 6 * 9 * 4}
    assert budget["dense_macs_thop"] == result["cost"]["dense"]["macs"] + 2 * elements["dense"]
    assert budget["macs_thop"] == result["cost"]["final"]["macs"] + 2 * elements["final"]
    assert budget["macs_thop_removed"] == 1 - budget["macs_thop"] / budget["dense_macs_thop"]
    assert result["cost"]["params_removed"] > 0.5 and result["equivalence"]["max_abs_diff"] < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_ratio": 1.0}, "prune_ratio must be"),
        ({"prune_ratio": 0.5, "score": "log"}, "score must be one of logspace, official"),
        ({"prune_ratio": 0.5, "slot_assignment": "random"}, "slot_assignment must be one of stable, topk"),
        ({"prune_ratio": 0.5, "update_every_epochs": 0}, "update_every_epochs must be a whole number of at least 1"),
        ({"prune_ratio": 0.5, "temperature": {"k": 0}}, "temperature.k must be a number above 0, got 0"),
        ({"prune_ratio": 0.5, "min_channels": 0}, "min_channels must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DCFF(**options)


def test_what_cannot_work_is_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"temperature.end must be at least temperature.start=5, got 2"):
        Temperature(start=5.0, end=2.0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 10))
    bare = bare_run(flat, PICTURE, schedule="scratch")
    with pytest.raises(UserError, match="it is a linear layer; only filters of convolutions are fused"):
        DCFF(prune_ratio=0.5).check(bare.template, bare)
    bare = bare_run(small(), PICTURE, schedule="finetune")
    with pytest.raises(UserError, match="schedule=finetune is not supported"):
        DCFF(prune_ratio=0.5).check(bare.template, bare)
