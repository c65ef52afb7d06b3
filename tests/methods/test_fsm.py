"""FSM: the hand-made layer, the sizes of the paper's nets, roll-back, order, what a run records."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.criteria.activation_moments import mean
from prunebench.criteria.compensation import compensated
from prunebench.criteria.expectations import expected_inputs, places_read, readers
from prunebench.criteria.feature_shift import Statistics, adjusted, feature_shift, kernel_sums
from prunebench.errors import UserError
from prunebench.methods.fsm import FSM
from prunebench.models.googlenet_cifar import Inception, googlenet
from prunebench.models.resnet import resnet50
from prunebench.models.resnet_cifar import CifarResNet, resnet56
from prunebench.models.vgg_cifar import vgg16
from prunebench.rows import find
from prunebench.rows.counting import count
from prunebench.rows.verify import verify
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from tests.bare import bare_run
from tests.kit import SHORT, accuracy, run
from tests.surgery.nets import randomise

BETA, GAMMA = torch.tensor([0.2, -1.0, 0.0, -0.5]), torch.tensor([0.5, 0.1, 1.0, -0.8])
SUMS = torch.tensor([[1.0, 2.0, -0.5, 0.3], [-2.0, 1.0, 0.1, 0.6]], dtype=torch.double)
EXPECTED = torch.tensor([0.315219, 0.0, 0.398942, 0.129536], dtype=torch.double)
SHIFTS = torch.tensor([0.472829, 0.0, 0.119683, 0.058291], dtype=torch.double)


class TestByHand:
    """Four channels that one convolution with two outputs reads."""

    def test_expected_features(self) -> None:
        torch.testing.assert_close(mean(BETA, GAMMA), EXPECTED, atol=1e-6, rtol=0)
        net = chain()
        torch.testing.assert_close(expected_inputs(net, graph_of(net))["3"], EXPECTED, atol=1e-6, rtol=0)
        official = FSM(prune_ratio=0.5, negative_scales="tiny")._expected(net, graph_of(net))["3"]
        torch.testing.assert_close(official, EXPECTED * torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-6, rtol=0)
        assert torch.equal(net[1].weight, GAMMA)  # it is not overwritten, as the official code does

    @pytest.mark.parametrize("join", [torch.sub, torch.maximum, torch.mul])
    def test_of_what_is_no_sum_nothing_is_known(self, join: Any) -> None:
        """Of two norms the sum of the means is expected behind a sum alone."""

        class Joined(nn.Module):
            def __init__(self, join: Any) -> None:
                super().__init__()
                self.join = join
                self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
                self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

            def forward(self, x: Tensor) -> Tensor:
                return self.c(self.join(self.norm_a(self.a(x)), self.norm_b(self.b(x))))

        net, added = Joined(join), Joined(torch.add)
        randomise(net)
        randomise(added)
        assert "c" not in expected_inputs(net, graph_of(net))
        total = added.get_parameter("norm_a.bias") + added.get_parameter("norm_b.bias")
        torch.testing.assert_close(expected_inputs(added, graph_of(added))["c"], total.detach().double())

    def test_feature_shift(self) -> None:
        own = torch.arange(4)
        torch.testing.assert_close(feature_shift(SUMS, EXPECTED, own, 4), SHIFTS, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            feature_shift(SUMS, EXPECTED, own, 4, reduction="sum"), 2 * SHIFTS, atol=1e-6, rtol=0
        )
        largest = SUMS.abs().amax(0) * EXPECTED
        torch.testing.assert_close(feature_shift(SUMS, EXPECTED, own, 4, reduction="max"), largest)

    @pytest.mark.parametrize("negative_scales", ["absolute", "tiny"])
    def test_half_of_the_channels_go(self, negative_scales: str) -> None:
        net = chain()
        bare = bare_run(net, schedule="oneshot")
        method = FSM(prune_ratio=0.5, layers=["0"], negative_scales=negative_scales, adjust="none")
        torch.testing.assert_close(method.scores(net, bare)["0"][:3], SHIFTS[:3], atol=1e-6, rtol=0)
        assert method.prune(net, bare).plan.keep == {"0": (0, 2)}

    def test_adjusted_statistics(self) -> None:
        before = Statistics(torch.tensor([0.10, -0.50]), torch.tensor([1.0, 2.0]))
        kept = [True, False, True, False]
        e_all, e_keep = SUMS @ EXPECTED, (SUMS * torch.tensor(kept)) @ EXPECTED
        torch.testing.assert_close(e_all, torch.tensor([0.154609, -0.512823]).double(), atol=2e-6, rtol=0)
        torch.testing.assert_close(e_keep, torch.tensor([0.115748, -0.590545]).double(), atol=2e-6, rtol=0)
        torch.testing.assert_close(e_all / before.mean, torch.tensor([1.546091, 1.025646]).double(), atol=1e-5, rtol=0)
        after = adjusted(before, SUMS, EXPECTED, kept, removed=0.5)
        torch.testing.assert_close(after.mean, torch.tensor([0.0748651, -0.5757782]), atol=1e-6, rtol=0)
        torch.testing.assert_close(after.var, torch.tensor([0.5, 1.0]))
        # the estimate of the second output is less than 1.2 times its recorded mean
        after = adjusted(before, SUMS, EXPECTED, kept, removed=0.5, threshold=1.2)
        torch.testing.assert_close(after.mean, torch.tensor([0.0748651, -0.50]), atol=1e-6, rtol=0)
        torch.testing.assert_close(after.var, torch.tensor([0.5, 2.0]))

    def test_means_of_zero_or_of_the_other_sign_stay(self) -> None:
        before = Statistics(torch.tensor([0.0, 0.50]), torch.tensor([1.0, 2.0]))
        after = adjusted(before, SUMS, EXPECTED, [True, False, True, False], removed=0.5)
        assert torch.equal(after.mean, before.mean) and torch.equal(after.var, before.var)

    def test_a_bias_is_a_part_of_the_recorded_mean(self) -> None:
        bias = torch.tensor([3.0, -2.0])
        without = Statistics(torch.tensor([0.10, -0.50]), torch.tensor([1.0, 2.0]))
        kept = [True, False, True, False]
        plain = adjusted(without, SUMS, EXPECTED, kept, removed=0.5)
        shifted = Statistics(without.mean + bias, without.var)
        torch.testing.assert_close(
            adjusted(shifted, SUMS, EXPECTED, kept, removed=0.5, bias=bias).mean, plain.mean + bias
        )


def chain() -> Any:
    """The layer above as a net; the second convolution has the kernel sums ``SUMS``."""
    front = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    behind = [nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()]
    net: Any = nn.Sequential(*front, *behind, nn.Linear(2 * 28 * 28, 10))
    net[1].weight.data, net[1].bias.data = GAMMA.clone(), BETA.clone()
    spread = torch.randn(2, 4, 3, 3)
    net[3].weight.data = spread - spread.mean((2, 3), keepdim=True) + SUMS.float()[:, :, None, None] / 9
    net[4].running_mean, net[4].running_var = torch.tensor([0.10, -0.50]), torch.tensor([1.0, 2.0])
    return net


def graph_of(net: nn.Module, size: int = 32) -> ChannelGraph:
    return ChannelGraph.trace(net, torch.zeros(1, 3, size, size))


def test_expected_features_are_those_of_a_simulation() -> None:
    draws = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    for beta, gamma, expected in zip(BETA, GAMMA, mean(BETA, GAMMA), strict=True):
        assert float((beta + gamma * draws).relu().mean()) == pytest.approx(float(expected), abs=1e-3)
    grid = torch.linspace(-2, 2, 41)
    assert bool((mean(grid, torch.full((41,), 0.7)).diff() >= 0).all())
    assert bool((mean(torch.full((41,), -0.3), grid.abs().sort().values).diff() >= 0).all())


def test_scaling_a_channel_and_its_readers_the_other_way_changes_no_score() -> None:
    net: Any = CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="A", width=8)
    randomise(net.eval())
    other = copy.deepcopy(net)
    factors = torch.rand(8) + 0.5
    other.layer1[0].bn1.weight.data *= factors
    other.layer1[0].bn1.bias.data *= factors
    other.layer1[0].conv2.weight.data /= factors[None, :, None, None]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(x), atol=1e-4, rtol=1e-4)
    bare = bare_run(net, schedule="oneshot")
    method = FSM(prune_ratio=0.5)
    for name, scores in method.scores(net, bare).items():
        torch.testing.assert_close(method.scores(other, bare)[name], scores)


class TestExpectations:
    @pytest.mark.slow
    def test_a_stream_is_the_sum_of_its_blocks(self) -> None:
        """ResNet-50: E[ReLU(N(b_a + b_b, g_a^2 + g_b^2))] behind a projection, plus E of each later block."""
        net: Any = resnet50(num_classes=10).eval()
        randomise(net)
        found = expected_inputs(net, graph_of(net, 64))
        block, projection = net.layer2[0].bn3, net.layer2[0].downsample[1]
        stream = mean(block.bias + projection.bias, torch.hypot(block.weight, projection.weight))
        torch.testing.assert_close(found["layer2.1.conv1"], stream, atol=1e-6, rtol=1e-5)
        for index in (1, 2, 3):
            stream = stream + mean(net.layer2[index].bn3.bias, net.layer2[index].bn3.weight)
        for reader in ("layer3.0.conv1", "layer3.0.downsample.0"):
            torch.testing.assert_close(found[reader], stream, atol=1e-6, rtol=1e-5)

    @pytest.mark.slow
    def test_the_readers_of_a_stream_stand_behind_its_last_sum(self) -> None:
        graph = dense(resnet50, 64)
        stages = {group[0]: list(readers(graph, group)) for group in graph.groups() if len(group) > 1}
        assert stages == {
            "layer1.0.conv3": ["layer2.0.conv1", "layer2.0.downsample.0"],
            "layer2.0.conv3": ["layer3.0.conv1", "layer3.0.downsample.0"],
            "layer3.0.conv3": ["layer4.0.conv1", "layer4.0.downsample.0"],
            "layer4.0.conv3": ["layer4.2.conv1"],
        }

    def test_branches_have_their_places_in_a_concatenation(self) -> None:
        module: Any = Inception(in_channels=6, channels=(2, 3, 4, 2, 3, 5))
        net: Any = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), module, nn.Conv2d(14, 2, 3), nn.Flatten()
        )
        randomise(net.eval())
        graph = graph_of(net, 8)
        expected = expected_inputs(net, graph)["4"]
        norms = [module.branch1x1[1], module.branch3x3[4], module.branch5x5[7], module.branch_pool[2]]
        torch.testing.assert_close(expected, torch.cat([mean(n.bias, n.weight) for n in norms]))
        for name, offset, width in (("3.branch3x3.3", 2, 4), ("3.branch5x5.6", 6, 3)):
            channels, _ = places_read(graph, (name,))["4"]
            assert channels.tolist() == [-1] * offset + list(range(width)) + [-1] * (14 - offset - width)
            score = FSM(prune_ratio=0.5)._shift(net, (name,), graph, {"4": expected})
            part = slice(offset, offset + width)
            by_hand = (kernel_sums(net[4].weight)[:, part] * expected[part]).abs().mean(0)
            torch.testing.assert_close(score, by_hand)

    def test_without_a_reading_convolution_the_expectation_counts(self) -> None:
        net = vgg16(width=4).eval()
        randomise(net)
        graph = graph_of(net)
        score = FSM(prune_ratio=0.5).scores(net, bare_run(net, schedule="oneshot"))["features.40"]
        norm: Any = net.get_submodule(graph.layers["features.40"].norm or "")
        torch.testing.assert_close(score, mean(norm.bias, norm.weight))


@functools.cache
def dense(build: Any, size: int = 32) -> ChannelGraph:
    return graph_of(build().eval(), size)


def vgg_with_bias() -> nn.Module:
    return vgg16(conv_bias=True)


DENSE = {
    vgg_with_bias: (313_463_808, 314_294_794, 14_991_946),
    resnet56: (125_485_696, 126_550_666, 853_018),
    googlenet: (1_521_756_160, 1_529_420_810, 6_166_250),
}


def thop(graph: ChannelGraph, plan: Plan) -> float:
    """The README's count; it has the biases of linear layers too, which are free in the thop of the rows."""
    return count(graph, plan, "thop", {}) + sum(
        layer.out_channels for layer in graph.layers.values() if layer.kind == "linear"
    )


@pytest.mark.parametrize(
    "build",
    [vgg_with_bias, resnet56, pytest.param(googlenet, marks=pytest.mark.slow)],
    ids=lambda build: build.__name__,
)
def test_sizes_of_the_official_dense_nets(build: Any) -> None:
    macs, published, params = DENSE[build]
    graph = dense(build)
    assert graph.macs(Plan()) == macs
    assert thop(graph, Plan()) == published
    assert graph.dense_params == params


ROWS: Mapping[str, tuple[float, float, int]] = {
    "fsm-t1_vgg16_66": (106_288_348, 106_832_882, 2_051_543),
    "fsm-t1_vgg16_81": (59_317_564, 59_713_634, 1_411_607),
    "fsm-t2_resnet56_51": (60_955_264, 61_737_994, 480_976),
    "fsm-t2_resnet56_68": (39_518_848, 40_229_002, 268_720),
    "fsm-t3_googlenet_63": (562_263_808, 567_318_986, 2_745_407),
    "fsm-t3_googlenet_75": (371_214_656, 375_671_178, 2_185_863),
    "fsm-t4_resnet50_57": (1_742_497_000, 1_759_010_000, 14_619_724),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_sizes_of_the_papers_rows(name: str) -> None:
    """MACs, the README's count with biases and norms, parameters: all of the official model definitions."""
    macs, published, params = ROWS[name]
    row = find(name)
    verified = verify(row)
    build = {"vgg16": vgg_with_bias, "resnet56": resnet56, "googlenet": googlenet, "resnet50": resnet50}[str(row.model)]
    graph = dense(build, 224 if build is resnet50 else 32)
    assert graph.macs(verified.plan) == pytest.approx(macs, rel=1e-6 if build is resnet50 else 0)
    assert thop(graph, verified.plan) == pytest.approx(published, rel=1e-5 if build is resnet50 else 0)
    assert graph.params(verified.plan) == params


class TestRollBack:
    @pytest.mark.parametrize(("accuracies", "kept"), [((0.8, 0.7), False), ((0.8, 0.8), True), ((0.7, 0.8), True)])
    def test_the_validation_split_decides(
        self, accuracies: tuple[float, float], kept: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = chain()
        bare = bare_run(net, schedule="oneshot")
        told = iter(accuracies)  # of the cut net with its old statistics, then with the adjusted ones
        monkeypatch.setattr(bare, "validate", lambda net: {"accuracy": next(told)})
        found = FSM(prune_ratio=0.5, layers=["0"]).prune(net, bare)
        norm = found.net.get_submodule("4")
        expected = ([0.0748651, -0.5757782], [0.5, 1.0]) if kept else ([0.10, -0.50], [1.0, 2.0])
        torch.testing.assert_close(norm.running_mean, torch.tensor(expected[0]), atol=1e-6, rtol=0)
        torch.testing.assert_close(norm.running_var, torch.tensor(expected[1]))
        assert (found.achieved["adjustments_tried"], found.achieved["adjustments_kept"]) == (1, int(kept))
        assert found.max_abs_diff is not None and found.max_abs_diff < 1e-4

    def test_only_the_mean(self) -> None:
        net = chain()
        found = FSM(prune_ratio=0.5, layers=["0"], adjust="mean").prune(net, bare_run(net, schedule="oneshot"))
        norm = found.net.get_submodule("4")
        torch.testing.assert_close(norm.running_mean, torch.tensor([0.0748651, -0.5757782]), atol=1e-6, rtol=0)
        torch.testing.assert_close(norm.running_var, torch.tensor([1.0, 2.0]))


@pytest.mark.slow
def test_a_block_is_a_module_and_a_plain_layer_is_one_by_itself() -> None:
    cases: list[tuple[Any, int, dict[str, Any], list[str]]] = [
        (
            resnet50,
            64,
            {"coupling": "aligned"},
            [f"layer{s + 1}.{b}" for s, n in enumerate((3, 4, 6, 3)) for b in range(n)],
        ),
        (vgg16, 32, {}, ["features.0", "features.3", "features.7"]),
        (googlenet, 32, {}, ["pre_layers.0", "inception_a3", "inception_b3"]),
    ]
    for build, size, options, expected in cases:
        graph = dense(build, size)
        bare = type("Bare", (), {"graph": graph, "template": build()})()
        keep = {name: (0,) for name, layer in graph.layers.items() if not layer.is_output}
        keep = {name: kept for name, kept in keep.items() if build is not resnet50 or name != "conv1"}
        blocks = FSM(prune_ratio=0.5, **options)._blocks(Plan(keep=keep), bare)
        assert list(blocks)[: len(expected)] == expected
        if build is resnet50:
            assert [len(members) for members in blocks["layer1.0"]] == [1, 1, 4]
            assert [len(members) for members in blocks["layer1.1"]] == [1, 1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": -1}, "threshold must be a number of at least 0"),
        ({"adjust": "variance"}, "adjust must be"),
        ({"block_epochs": 0.5}, "block_epochs must be"),
        ({"reduction": "median"}, "reduction must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        FSM(prune_ratio=0.5, **settings)


def test_what_it_cannot_score_is_said_before_training() -> None:
    net: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 28 * 28, 10)
    )
    with pytest.raises(UserError, match="no convolution reads it of which a batch norm tells what it may expect"):
        FSM(prune_ratio=0.5).check(net, bare_run(net, schedule="oneshot"))
    net = CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="A", width=8)
    method, bare = FSM(prune_ratio=0.5), bare_run(net, schedule="oneshot")
    found = method.prune(net, bare)
    assert set(found.plan.keep) == {"layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"}
    assert {entry["reason"] for entry in found.not_pruned} == {
        "it meets an addition, whose layers are scored together (method.coupling=aligned)"
    }
    bare.data.num_val = 0
    with pytest.raises(UserError, match=r"method\.roll_back=true decides on the validation split"):
        method.check(net, bare)
    FSM(prune_ratio=0.5, roll_back=False).check(net, bare)


NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")


def test_a_run_trains_after_each_block(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *SHORT, *NET, "method=fsm", "method.prune_ratio=0.5", "method.block_epochs=2")
    blocks = ["finetune_block_1", "finetune_block_2", "finetune_block_3"]
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", *blocks, "finetune"]
    assert [phase["lr"] for phase in result["phases"][1:4]] == [[1e-3, pytest.approx(1e-4)]] * 3
    assert result["budget"]["adjustments_tried"] == 3
    assert {"dense", "pruned", "final"} <= set(result["metrics"])
    oneshot, _ = run(tmp_path, *SHORT, *NET, "method=fsm", "method.prune_ratio=0.5", "schedule=oneshot")
    assert [phase["name"] for phase in oneshot["phases"]] == ["pretrain"]


# -- a published net


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prune_ratio", "plain", "compensated_mean", "official"), [(0.3, 82.8, 85.2, 83.7), (0.4, 66.0, 74.6, 75.1)]
)
def test_one_shot_accuracies(
    trained: nn.Module,
    test_pictures: tuple[Tensor, Tensor],
    prune_ratio: float,
    plain: float,
    compensated_mean: float,
    official: float,
) -> None:
    """First 1,000 test images, first convolution of each block, nothing trained; measured by us with another code."""
    assert accuracy(trained, test_pictures, 1000) == pytest.approx(92.6, abs=0.1)
    bare = bare_run(trained, schedule="oneshot")
    cut = FSM(prune_ratio=prune_ratio, adjust="none").prune(trained, bare)
    assert accuracy(cut.net, test_pictures, 1000) == pytest.approx(plain, abs=1.5)
    assert cut.plan is not None
    moved = compensated(trained, bare.graph, cut.plan, Plan())
    again = bare.cut(moved, Choice(cut.plan, [], {}))
    assert accuracy(again.net, test_pictures, 1000) == pytest.approx(compensated_mean, abs=1.5)
    scaled = FSM(prune_ratio=prune_ratio, roll_back=False).prune(trained, bare_run(trained, schedule="oneshot"))
    assert accuracy(scaled.net, test_pictures, 1000) == pytest.approx(official, abs=1.5)
