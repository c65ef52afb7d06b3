"""ThiNet: the choice by hand, what an instance is, the net that is left, and the training between two layers."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.criteria.parts import pursue, remove_greedily, scales
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.methods.bases.reconstruction import Reader, draw_places
from prunebench.methods.bases.walk import Walk
from prunebench.methods.thinet import ThiNet, instances
from prunebench.models.resnet import Bottleneck, resnet50
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_plain import vgg16_imagenet
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run
from tests.methods.pictures import run_on_pictures, trained_norms

CONFORMANCE = {"thinet": Conformance(options=("method.images_per_class=10",))}

FIRST = torch.tensor([[1, 1.2, -2, 0.5], [0, 0, 0, 0.9]])
SECOND = torch.tensor([[1.0, 2, 0, 1], [0, 1, 3, 1], [2, 0, 1, -1], [1, 1, 1, 0], [0, 2, 2, 1]])
SMALL = torch.zeros(1, 3, 8, 8)


def small_net(blocks: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return trained_norms(CifarResNet(blocks=blocks, num_classes=10, in_channels=3, shortcut="A", width=8))


class TestChoice:
    def test_greedy_is_neither_the_optimum_nor_the_smallest_columns(self) -> None:
        # 1.0 goes, then |1 - 2| = 1.0 (the alternatives: 2.2 and 1.749)
        assert remove_greedily(FIRST, 2) == [0, 2]
        norms = {pair: float(FIRST[:, pair].sum(1).norm()) for pair in itertools.combinations(range(4), 2)}
        assert min(norms, key=lambda pair: norms[pair]) == (1, 2) and norms[1, 2] == pytest.approx(0.8)
        assert sorted(FIRST.norm(dim=0).argsort()[:2].tolist()) == [0, 3]

    def test_factors_rebuild_the_first_example(self) -> None:
        whole = FIRST.sum(1)
        torch.testing.assert_close(whole, torch.tensor([0.7, 0.9]))
        found = scales(FIRST[:, [1, 3]], whole)
        torch.testing.assert_close(found, torch.tensor([1 / 6, 1.0], dtype=torch.float64))
        assert float((FIRST[:, [1, 3]].double() @ found - whole).norm()) < 1e-6

    def test_second_example(self) -> None:
        assert remove_greedily(SECOND, 2) == [3, 0]
        assert float(SECOND[:, 3].norm()) == 2.0
        assert float(SECOND[:, [0, 3]].sum(1).norm()) == pytest.approx(2.828427)
        whole, kept = SECOND.sum(1), SECOND[:, [1, 2]]
        found = scales(kept, whole)
        torch.testing.assert_close(found, torch.tensor([1.74418605, 1.06976744], dtype=torch.float64))
        assert float((whole - kept.sum(1)).norm()) == pytest.approx(2.828427)
        assert float((whole - kept.double() @ found).norm()) == pytest.approx(1.248255)
        assert sorted(pursue(SECOND, whole, 2)) == [1, 2]

    def test_pursuit_takes_the_best_column_and_refits(self) -> None:
        parts = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
        whole = parts.sum(1)
        chosen: list[int] = []
        for _ in range(4):
            rest = whole.double() if not chosen else whole - parts[:, chosen].double() @ scales(parts[:, chosen], whole)
            errors = {}
            for c in set(range(6)).difference(chosen):
                column = parts[:, c].double()
                errors[c] = float((rest - (column @ rest) / (column @ column) * column).norm())
            chosen.append(min(errors, key=lambda c: errors[c]))
        assert pursue(parts, whole, 4) == chosen

    def test_ties_go_to_the_lowest_index_and_dead_channels_go_first(self) -> None:
        assert remove_greedily(torch.tensor([[1.0, 1, 1], [2, 2, 2]]), 2) == [0, 1]
        parts = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
        parts[:, 3] = 0
        assert remove_greedily(parts, 1) == [3]
        assert 3 not in pursue(parts, parts.sum(1), 4)
        assert remove_greedily(parts, 3, gone=[4, 1])[:2] == [4, 1]
        assert scales(parts, parts.sum(1))[3] == 0  # singular: no inverse exists

    def test_scaling_can_only_help(self) -> None:
        for seed in range(5):
            parts = torch.randn(40, 8, generator=torch.Generator().manual_seed(seed)).double()
            kept = parts[:, ::2]
            error = (parts.sum(1) - kept @ scales(kept, parts.sum(1))).norm()
            assert error <= (parts.sum(1) - kept.sum(1)).norm()


class Readers(nn.Module):
    """Every way of reading: stride and padding, dilation behind a pooling, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.strided = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(5, 4, (3, 1), padding="same", dilation=2, padding_mode="replicate")
        self.pointwise = nn.Conv2d(4, 7, 1, bias=False)
        self.linear = nn.Linear(7 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.stem(x))
        x = nn.functional.max_pool2d(self.strided(x).relu(), 2, padding=1)
        x = self.pointwise(self.dilated(x).relu_())
        return self.linear(nn.functional.adaptive_max_pool2d(x.relu(), 3).flatten(1))


@pytest.mark.parametrize("name", ["strided", "dilated", "pointwise", "linear"])
@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_an_output_is_the_sum_of_its_parts(name: str, memory: int) -> None:
    torch.manual_seed(0)
    net, pictures = Readers().eval(), torch.randn(70, 3, 17, 14)
    graph = ChannelGraph.trace(net, pictures[:1])
    walk = Walk(net, graph, pictures, memory=memory)
    for layer in ("strided", name):  # it goes on from there, or starts anew
        reader, draws = Reader.of(graph, layer), stream("test")
        assert reader is not None
        places = draw_places(70, 9, graph.layers[layer].positions, draws=draws, distinct=False)
        filters = torch.randint(graph.layers[layer].out_channels, places.shape, generator=draws)
        parts, whole = instances(walk, reader, net, places, filters)
        assert parts.shape == (630, reader.width) and float(whole.std()) > 0.05
        torch.testing.assert_close(parts.sum(1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"selection": "tpami"}, {"rescale": False}])
def test_the_pruned_net_is_the_masked_net(options: dict[str, Any]) -> None:
    net, pictures = small_net(), torch.randn(6, 3, 8, 8)
    run = run_on_pictures(net, SMALL)
    found = ThiNet(prune_ratio=0.5, images_per_class=8, **options).prune(net, run)
    assert found.plan is not None and len(found.plan.keep) == 3 and found.max_abs_diff is not None
    masked = copy.deepcopy(net)
    for name, kept in found.plan.keep.items():
        block = masked.get_submodule(name.removesuffix(".conv1"))
        alive = torch.zeros(run.graph.layers[name].out_channels)
        alive[list(kept)] = 1
        small = found.net.get_parameter(name.replace("conv1", "conv2.weight"))
        ratios = small / block.conv2.weight[:, list(kept)]  # one factor for each channel
        torch.testing.assert_close(ratios, ratios.mean((0, 2, 3), keepdim=True).expand_as(ratios), rtol=1e-3, atol=0)
        assert (options.get("rescale", True)) == bool((ratios.mean((0, 2, 3)) - 1).abs().max() > 1e-3)
        with torch.no_grad():
            block.conv2.weight[:, list(kept)] = small
        block.conv2.register_forward_pre_hook(lambda _, inputs, alive=alive: inputs[0] * alive[:, None, None])
    with torch.no_grad():
        torch.testing.assert_close(found.net.eval()(pictures), masked.eval()(pictures), atol=1e-5, rtol=1e-4)


def test_the_layer_behind_is_read_after_the_cuts_before_it() -> None:
    """The first block's choice does not depend on the second's, the second's instances are those of the cut net."""
    net = small_net()
    run = run_on_pictures(net, SMALL)
    whole = ThiNet(prune_ratio=0.5, images_per_class=8).prune(net, run).plan
    first = ThiNet(prune_ratio=0.5, images_per_class=8, layers=["layer1.0.conv1"]).prune(
        net, run_on_pictures(net, SMALL)
    )
    assert whole is not None and first.plan is not None
    assert first.plan.keep["layer1.0.conv1"] == whole.keep["layer1.0.conv1"]
    again = run_on_pictures(net, SMALL)
    again.plan = first.plan
    method = ThiNet(prune_ratio=0.5, images_per_class=8)
    step = method.prune(zeroed_like(net, run.graph, first), again)
    assert step.plan == whole


def zeroed_like(net: nn.Module, graph: ChannelGraph, found: Any) -> nn.Module:
    from prunebench.surgery.zero import restore

    return restore(net, graph, found.plan, found.net)


def test_layers_take_turns_and_a_resumed_run_skips_them(tmp_path: Path) -> None:
    words = (
        *SHORT, "model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet",
        "method=thinet", "method.images_per_class=10", "method.between_lr=0.01", "dataset.epochs.train=1",
        "dataset.epochs.finetune=1",
    )  # fmt: skip
    result, _ = run(tmp_path, *words)
    trained = [(phase["name"], phase["settings"]["lr"]) for phase in result["phases"]]
    assert [name for name, _ in trained] == ["pretrain", "finetune_turn_1", "finetune_turn_2", "finetune"]
    assert [lr for _, lr in trained][1:3] == [0.01, 0.01]
    assert result["budget"]["channels_kept"] == 0.5
    at_once, _ = run(tmp_path, *words, "method.between_epochs=0")
    assert [phase["name"] for phase in at_once["phases"]] == ["pretrain", "finetune"]


def test_a_block_is_one_turn() -> None:
    blocks = [Bottleneck(in_channels=8, width=2, stride=1) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    bare = run_on_pictures(net, SMALL)
    cut: dict[str, list[str]] = {}
    method = ThiNet(prune_ratio=0.5, turn="block", images_per_class=8)

    def prune(net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        cut[phase.name] = list(method._turns[phase.name])
        return net

    bare.prune = prune  # type: ignore[method-assign]
    method.run(net, bare)
    pairs = [[f"{block}.conv1", f"{block}.conv2"] for block in (1, 2, 3)]
    assert cut == {"train_turn_1": pairs[0], "train_turn_2": pairs[1], "train": [*pairs[0], *pairs[1], *pairs[2]]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "global"}, "cannot be compared; use method.scope=layer"),
        ({"min_channels": 0}, "min_channels must be a whole number of at least 1, got 0"),
        ({"selection": "omp"}, "selection must be one of greedy, tpami, got 'omp'"),
        ({"images_per_class": 9}, "asks for 90 pictures of 10 classes, and dataset=made_up has 80"),
        ({"images_per_class": 1, "locations_per_image": 1}, "give 10 instances for up to 16 factors, and 32 are"),
        ({"layers": ["conv1"]}, "can score none .* conv1: its channels meet an addition"),
    ],
)
def test_mistakes_are_refused_before_training(options: dict[str, Any], words: str) -> None:
    net = small_net()
    with pytest.raises(UserError, match=words):
        ThiNet(**{"prune_ratio": 0.5, "images_per_class": 8, **options}).check(net, run_on_pictures(net, SMALL))


def test_a_class_with_too_few_pictures_is_named() -> None:
    net = small_net()
    run = run_on_pictures(net, SMALL, number=75)  # eight of the first five classes, seven of the others
    with pytest.raises(UserError, match="class 5 of dataset=made_up has only 7 training pictures"):
        ThiNet(prune_ratio=0.5, images_per_class=8).prune(net, run)


@pytest.mark.slow
class TestPublishedCounts:
    """FLOPs are two for each multiply-accumulate; 1 % of what the papers print, and ours to the digit they have."""

    @pytest.mark.parametrize(("head", "flops", "params"), [("linear", 9.58e9, 131.45e6), ("average", 9.34e9, 8.32e6)])
    def test_vgg16(self, head: str, flops: float, params: float) -> None:
        net = vgg16_imagenet(head=head)
        graph = ChannelGraph.trace(net.eval(), torch.zeros(1, 3, 224, 224))
        if head == "linear":
            assert 2 * graph.dense_macs == pytest.approx(30.94e9, rel=1e-3)
        convs = [name for name, layer in graph.layers.items() if layer.kind == "conv"]
        plan = Plan({name: tuple(range(graph.layers[name].out_channels // 2)) for name in convs[:10]})
        assert 2 * graph.macs(plan) == pytest.approx(flops, rel=1e-3)
        assert graph.params(plan) == pytest.approx(params, rel=1e-3)
        if head == "average":
            widths = dict(zip(convs, (16, 16, 32, 32, 64, 64, 64, *[128] * 5, 256), strict=True))
            tiny = Plan({name: tuple(range(width)) for name, width in widths.items()})
            assert 2 * graph.macs(tiny) == pytest.approx(2.01e9, rel=3e-3)
            assert graph.params(tiny) == pytest.approx(1.33e6, abs=5e3)  # half of the last digit printed

    @pytest.mark.parametrize(
        ("strided", "dense", "flops"),
        [("first", 7.72e9, (4.88e9, 3.41e9, 2.195e9)), ("middle", 8.18e9, (5.20e9, 3.64e9, 2.33e9))],
    )
    def test_resnet50(self, strided: str, dense: float, flops: tuple[float, ...]) -> None:
        net = resnet50(strided=strided).eval()
        run = run_on_pictures(net, torch.zeros(1, 3, 224, 224))
        run.carry_out = False
        graph = run.graph
        assert 2 * graph.dense_macs == pytest.approx(dense, rel=1e-3)
        for ratio, published, params in zip((0.3, 0.5, 0.7), flops, (16.95e6, 12.38e6, 8.67e6), strict=True):
            plan = ThiNet(prune_ratio=ratio, images_per_class=1, count="keep_floor").cut_sizes(net, run).plan
            assert plan is not None
            assert 2 * graph.macs(plan) == pytest.approx(published, rel=2e-3)
            assert graph.params(plan) == pytest.approx(params, rel=1e-3)
            widths = [len(plan.keep[f"layer{stage}.0.conv1"]) for stage in (1, 2, 3, 4)]
            assert widths == [int(w * (1 - ratio) + 1e-9) for w in (64, 128, 256, 512)]
            if ratio == 0.3:
                assert widths == [44, 89, 179, 358]
            if ratio == 0.7:
                assert widths == [19, 38, 76, 153]
