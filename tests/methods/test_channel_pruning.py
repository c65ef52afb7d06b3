"""Channel pruning: what is refitted, to what, and where the channels go that are no longer read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.methods.bases.inputs import inputs_of
from prunebench.methods.bases.output import Output
from prunebench.methods.bases.reconstruction import Reader
from prunebench.methods.channel_pruning import ChannelPruning, refit
from prunebench.models.resnet import resnet50
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_plain import vgg16_imagenet
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import restore, zero
from tests.conformance.settings import Conformance
from tests.methods.pictures import Pictures, run_on_pictures, trained_norms

CONFORMANCE = {"channel_pruning": Conformance(options=("method.num_images=150",))}

SMALL = torch.zeros(1, 3, 8, 8)
OPTIONS: dict[str, Any] = {"prune_ratio": 0.5, "num_images": 80, "locations_per_image": 16}


def small_net(blocks: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return trained_norms(CifarResNet(blocks=blocks, num_classes=10, in_channels=3, shortcut="A", width=8))


class Chain(nn.Module):
    """Two convolutions with biases and no norm."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.second = nn.Conv2d(width, 4, 1)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.second(self.first(x)).relu().mean((2, 3)))


def pruned(net: nn.Module, example: Tensor = SMALL, **options: Any) -> tuple[nn.Module, Plan, Tensor]:
    """The small net, its plan, and the pictures that it was fitted to."""
    run = run_on_pictures(net, example)
    found = ChannelPruning(**{**OPTIONS, **options}).prune(net, run)
    assert found.plan is not None and isinstance(run.data, Pictures)
    assert found.max_abs_diff is not None and found.max_abs_diff < 1e-4
    return found.net.eval(), found.plan, run.data.inputs


class TestRefit:
    def test_what_a_combination_of_channels_gave_is_recovered(self) -> None:
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(50, 2, generator=draws)
        x = torch.cat([x, 2 * x[:, :1] - x[:, 1:]], dim=1)  # x3 = 2 x1 - x2
        weight = torch.randn(4, 3, generator=draws)
        new, shift = refit(x[:, :2], x @ weight.T, intercept=False)
        torch.testing.assert_close(new[:, 0], (weight[:, 0] + 2 * weight[:, 2]).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(new[:, 1], (weight[:, 1] - weight[:, 2]).double(), atol=1e-5, rtol=0)
        assert float((x[:, :2].double() @ new.T - x @ weight.T).norm()) < 1e-4 and shift.abs().max() == 0

    def test_the_constant_is_that_of_linear_regression(self) -> None:
        x, y = torch.rand(60, 4), torch.rand(60, 3) + 2
        new, shift = refit(x, y, intercept=True)
        design = torch.cat([x, torch.ones(60, 1)], 1).double()
        expected = torch.linalg.lstsq(design, y.double()).solution
        torch.testing.assert_close(torch.cat([new.T, shift[None]]), expected)

    def test_equal_channels_need_no_inverse(self) -> None:
        x = torch.rand(30, 1).repeat(1, 3)
        new, _ = refit(x, 3 * x[:, :1], intercept=False)
        torch.testing.assert_close(new, torch.ones(1, 3, dtype=torch.float64))  # the smallest of all solutions

    def test_it_never_hurts(self) -> None:
        for seed in range(5):
            draws = torch.Generator().manual_seed(seed)
            x, weight = torch.randn(200, 12, generator=draws).relu(), torch.randn(5, 12, generator=draws)
            y = x @ weight.T
            new, shift = refit(x[:, ::2], y, intercept=True)
            dropped = (y - x[:, ::2] @ weight[:, ::2].T).norm()
            assert (y - x[:, ::2].double() @ new.T - shift).norm() < dropped


def test_a_whole_layer_is_recovered_and_its_writer_loses_the_channel() -> None:
    net = Chain()
    with torch.no_grad():
        net.first.weight[2] = 2 * net.first.weight[0] - net.first.weight[1]
        net.first.bias[2] = 2 * net.first.bias[0] - net.first.bias[1] + 5  # 5 goes into the bias
    small, plan, pictures = pruned(net, prune_ratio=1 / 3)
    assert list(plan.keep) == ["first"] and len(plan.keep["first"]) == 2 and not plan.inputs
    torch.testing.assert_close(small(pictures), net(pictures), atol=1e-4, rtol=1e-4)
    assert (small.get_parameter("second.bias") - net.second.bias).abs().max() > 0.1
    bare, _, _ = pruned(net, prune_ratio=1 / 3, intercept=False)
    torch.testing.assert_close(bare.get_parameter("second.bias"), net.second.bias)


def test_branches_select_and_streams_stay() -> None:
    net = small_net()
    small, plan, pictures = pruned(net)
    assert {name: len(kept) for name, kept in plan.keep.items()} == {
        "layer1.0.conv1": 4, "layer2.0.conv1": 8, "layer3.0.conv1": 16
    }  # fmt: skip
    assert {name: len(read) for name, read in plan.inputs.items()} == {
        "layer1.0.conv1": 4, "layer2.0.conv1": 4, "layer3.0.conv1": 8
    }  # fmt: skip
    graph = run_on_pictures(net, SMALL).graph
    masked = zero(restore(net, graph, plan, small), graph, plan).eval()  # the same weights, and zeros
    assert masked.get_parameter("layer3.0.conv2.weight").shape == (32, 32, 3, 3)
    torch.testing.assert_close(small(pictures), masked(pictures), atol=1e-5, rtol=1e-4)
    _, only, _ = pruned(net, select_inputs=False)
    assert only.keep.keys() == plan.keep.keys() and not only.inputs


def test_rebuilt_nets_are_nearer_to_the_whole_net_than_cut_ones() -> None:
    net = small_net()
    graph = run_on_pictures(net, SMALL).graph
    found = {}
    for corrected in (True, False):
        small, plan, pictures = pruned(net, correct_shortcut=corrected, locations_per_image=64)
        found[corrected] = apart(small, net, pictures)
    assert found[True] < found[False] < apart(zero(net, graph, plan).eval(), net, pictures)


class Branch(nn.Module):
    """A shortcut that loses channels, and a branch that sees the whole picture: both are linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
        self.one, self.two = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        short = self.narrow(self.stem(x))
        return self.linear(short.add(self.norm(self.two(self.one(x)))).relu().mean((2, 3)))


def test_the_branch_makes_up_for_what_the_shortcut_has_lost() -> None:
    """Two of the stem's channels do not hold a picture of three colours, three of the branch's do."""
    torch.manual_seed(0)
    net = trained_norms(Branch())
    errors = {}
    for corrected in (False, True):
        small, plan, pictures = pruned(
            net, layers=["narrow", "two"], prune_ratio=0.6, locations_per_image=64, correct_shortcut=corrected
        )
        assert len(plan.keep["stem"]) == 2 and len(plan.keep["one"]) == 3
        errors[corrected] = apart(small, net, pictures)
    assert errors[True] < 1e-3 < 0.1 < errors[False]


def test_the_norm_has_the_statistics_of_the_new_outputs() -> None:
    net = small_net()
    small, _, pictures = pruned(net, locations_per_image=64, layers=["layer1.0.conv2"])
    seen: list[Tensor] = []
    small.get_submodule("layer1.0.conv2").register_forward_hook(lambda *args: seen.append(flat(args[2])))
    with torch.no_grad():
        small(pictures)
    norm = small.get_submodule("layer1.0.bn2")
    torch.testing.assert_close(norm.running_mean, seen[0].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, seen[0].var(0), atol=1e-5, rtol=1e-4)
    old, new = (one.get_parameter("layer1.0.conv2.weight").flatten(1).norm(dim=1) for one in (net, small))
    torch.testing.assert_close(new, old)


def test_restored_norms_alone() -> None:
    torch.manual_seed(0)
    net = trained_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)))
    net.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)])
    graph = ChannelGraph.trace(net, SMALL)
    reader = Reader.of(graph, "2")
    assert reader is not None
    output = Output.of(graph, net, reader, torch.zeros(1, 1, dtype=torch.long))
    assert output.norm == "3" and output.sum is None and output.takes_shift
    x = torch.randn(400, 2)
    weight, shift = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    offset = net[3].bias - net[3].weight / (net[3].running_var + 1e-5).sqrt() * (net[3].running_mean - net[2].bias)
    with torch.no_grad():
        output.rebuild(net, [1, 3], weight, shift, x)
        pictures = torch.zeros(400, 4, 1, 1)
        pictures[:, [1, 3], 0, 0] = x
        expected = x @ weight.float().T + (offset + shift).float()
        for training in (False, True):
            found = copy.deepcopy(net[2:4]).train(training)(pictures)[:, :, 0, 0]
            torch.testing.assert_close(found, expected, atol=0.02 if training else 1e-4, rtol=0)


def test_targets_are_the_whole_nets_and_inputs_the_cut_nets() -> None:
    """Exactly what is computed by hand for two layers in a row."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)])
    small, plan, pictures = pruned(net, locations_per_image=64)
    with torch.no_grad():
        x = net[:2](pictures)[:, list(plan.keep["0"])]
        first = refit(flat(x), flat(net[:3](pictures)), intercept=True)
        middle = (flat(x) @ first[0].float().T + first[1].float()).relu()[:, list(plan.keep["2"])]
        weight, shift = refit(middle, flat(net[:5](pictures)), intercept=True)
    torch.testing.assert_close(small.get_parameter("4.weight")[:, :, 0, 0], weight.float(), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(small.get_parameter("4.bias"), shift.float(), atol=2e-4, rtol=1e-3)


def apart(one: nn.Module, other: nn.Module, pictures: Tensor) -> float:
    with torch.no_grad():
        return float((one(pictures) - other(pictures)).norm())


def flat(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2)


def test_official_samples_and_excess() -> None:
    net = small_net()
    _, plan, _ = pruned(net, lasso_samples=40, max_excess=0.1)
    assert 16 <= len(plan.keep["layer3.0.conv1"]) <= 17


def test_a_target_and_a_second_cut() -> None:
    net = small_net()
    run = run_on_pictures(net, SMALL, fraction=0.5)
    method = ChannelPruning(target_macs=0.5, num_images=80, locations_per_image=64)
    first = method.prune(net, run)
    assert first.plan is not None and first.achieved["reached"] == pytest.approx(0.5**0.5, rel=0.01)
    again = run_on_pictures(net, SMALL)
    again.plan = first.plan
    second = method.prune(restore(net, run.graph, first.plan, first.net), again)
    assert second.plan is not None and second.achieved["reached"] == pytest.approx(0.5, rel=0.01)
    for name, kept in second.plan.keep.items():
        assert set(kept) <= set(first.plan.keep.get(name, kept))
    for name, read in second.plan.inputs.items():
        assert set(read) <= set(first.plan.inputs.get(name, read))


def test_which_layers_lose_inputs() -> None:
    graph = run_on_pictures(small_net(), SMALL).graph
    found, refused = inputs_of(graph, None, None, select=False)
    assert list(found) == ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]
    assert refused["conv1"] == "it reads the net's input"
    assert "select_inputs=false" in refused["layer1.0.conv1"]
    found, refused = inputs_of(graph, ["layer1.*", "linear"], ["layer1.0.conv1"], select=True)
    assert list(found) == ["layer1.0.conv2", "linear"] and refused == {"layer1.0.conv1": "it is to stay whole"}
    assert found["linear"].writer is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_images": 81}, "method.num_images=81, but dataset=made_up has 80 pictures"),
        (
            {"num_images": 8, "locations_per_image": 10},
            "72 weights of each output of layer2.0.conv2 need 144 samples, and .* with 10 places each give 80",
        ),
        ({"prune_ratio": None}, "exactly one of prune_ratio, target_macs and target_params"),
        ({"prune_ratio": {"conv9": 0.5}}, "'conv9', which matches none of the 6 layers"),
        ({"target_macs": 0.001}, r"target_macs=0.001 is out of reach: .* stay"),
        ({"layers": ["conv1"]}, "no layer of this net can lose input channels, for example conv1: it reads the net's"),
        ({"layers": "interior"}, "layers must be all or a list of texts, got 'interior'"),
        ({"max_excess": -0.1}, "max_excess must be a number of at least 0"),
    ],
)
def test_mistakes_are_refused_before_training(options: dict[str, Any], words: str) -> None:
    net = small_net()
    with pytest.raises(UserError, match=words):
        ChannelPruning(**{**OPTIONS, **options}).check(net, run_on_pictures(net, SMALL))


def test_an_underdetermined_fit_is_refused() -> None:
    """16 of 32 channels with 3x3 weights: 288 samples are needed, a map of 2x2 has only four places."""
    net = small_net()
    with pytest.raises(UserError, match=r"144 weights of each output of layer3.0.conv2 need 288 samples"):
        ChannelPruning(prune_ratio=0.5, num_images=71).check(net, run_on_pictures(net, SMALL))
    ChannelPruning(prune_ratio=0.5, num_images=72).check(net, run_on_pictures(net, SMALL))


@pytest.mark.slow
class TestPublishedCounts:
    def test_vgg16(self) -> None:
        graph = ChannelGraph.trace(vgg16_imagenet().eval(), torch.zeros(1, 3, 224, 224))
        convs = [name for name, layer in graph.layers.items() if layer.kind == "conv"]
        widths = dict(zip(convs, (24, 22, 41, 51, 108, 89, 111, 184, 276, 228), strict=False))
        plan = Plan({name: tuple(range(width)) for name, width in widths.items()})
        assert graph.dense_macs == pytest.approx(15.470e9, rel=1e-4)
        assert graph.macs(plan) == pytest.approx(3.515e9, rel=2e-4)
        assert graph.dense_macs / graph.macs(plan) == pytest.approx(4.40, abs=0.005)
        linear = sum(
            layer.in_channels * layer.out_channels for layer in graph.layers.values() if layer.kind == "linear"
        )
        assert (graph.dense_macs - linear) / (graph.macs(plan) - linear) == pytest.approx(4.52, abs=0.005)

    @pytest.mark.parametrize(("strided", "dense", "macs"), [("middle", 4.089e9, 2.730e9), ("first", 3.858e9, 2.599e9)])
    def test_resnet50(self, strided: str, dense: float, macs: float) -> None:
        from prunebench import rows

        overrides = rows.find("channel_pruning-resnet50_2x_enhanced").overrides
        assert overrides is not None
        net = resnet50(strided=strided).eval()
        run = run_on_pictures(net, torch.zeros(1, 3, 224, 224))
        run.carry_out = False
        method = ChannelPruning(prune_ratio=overrides["method.prune_ratio"], num_images=5000)
        plan = method.cut_sizes(net, run).plan
        assert plan is not None
        assert [len(plan.inputs["layer4.2.conv1"]), len(plan.keep["layer4.2.conv2"])] == [1147, 440]
        assert run.graph.dense_macs == pytest.approx(dense, rel=2e-4)
        assert run.graph.macs(plan) == pytest.approx(macs, rel=4e-4)
