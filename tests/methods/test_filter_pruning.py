from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.config.phase import Phase
from prunebench.criteria.scorers import BatchNormStatistic, Criterion, FilterNorm, GeometricMedian, Random, Subject
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.models.resnet import resnet34, resnet50
from prunebench.models.resnet_cifar import resnet20, resnet56, resnet110
from prunebench.models.vgg_cifar import vgg16
from prunebench.run.bare import BareRun
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero
from tests.bare import bare_run

L1, L2, FPGM = FilterNorm(order=1), FilterNorm(order=2), GeometricMedian()


def prune(
    net: nn.Module, criterion: Criterion, run: BareRun | None = None, **options: Any
) -> tuple[nn.Module, BareRun]:
    run = run or bare_run(net)
    method = FilterPruning(criterion=criterion, **options)
    method.check(net, run)
    return run.note(method.prune(net, run)), run


def widths(run: BareRun, names: list[str]) -> list[int]:
    return [len(run.plan.keep.get(name, range(run.graph.layers[name].out_channels))) for name in names]


class TestPublishedArchitectures:
    """Li et al. 2017, table 1: the widths and counts of the predefined targets."""

    tables = {
        "resnet56_a": {"layer1.7.conv1": 0, "layer[23].0.conv1": 0, "layer3.8.conv1": 0, "*": 0.1},
        "resnet56_b": {
            "layer1.[78].conv1": 0,
            "layer2.[07].conv1": 0,
            "layer3.[08].conv1": 0,
            "layer1.*": 0.6,
            "layer2.*": 0.3,
            "layer3.*": 0.1,
        },
        "resnet110_a": {"layer1.17.conv1": 0, "layer1.*": 0.5},
        "resnet110_b": {
            "layer1.17.conv1": 0,
            "layer[23].0.conv1": 0,
            "layer1.*": 0.5,
            "layer2.*": 0.4,
            "layer3.*": 0.3,
        },
    }

    @pytest.mark.parametrize(
        ("name", "build", "macs", "params"),
        [
            ("resnet56_a", resnet56, 112_435_200, 773_336),
            ("resnet56_b", resnet56, 90_906_624, 735_712),
            ("resnet110_a", resnet110, 212_779_008, 1_688_522),
            ("resnet110_b", resnet110, 155_123_712, 1_168_424),
        ],
    )
    def test_cifar_resnets(self, name: str, build: Any, macs: int, params: int) -> None:
        table = self.tables[name]
        compact, run = prune(build(), L1, layers="interior", count="keep_floor", prune_ratio=table)
        counted = cost.count(compact, run.example)
        assert (counted.macs - 640, counted.params) == (macs, params)  # the paper leaves the classifier out
        if name == "resnet56_b":
            blocks = [[f"layer{stage}.{block}.conv1" for block in range(9)] for stage in (1, 2, 3)]
            assert [widths(run, names) for names in blocks] == [
                [6, 6, 6, 6, 6, 6, 6, 16, 16],
                [32, 22, 22, 22, 22, 22, 22, 32, 22],
                [64, 57, 57, 57, 57, 57, 57, 57, 64],
            ]
            assert {"layer": "layer1.7.conv1", "reason": "its prune ratio is 0"} in run.not_pruned

    def test_vgg16_a(self) -> None:
        net = vgg16()
        convs = [name for name, layer in bare_run(net).graph.layers.items() if layer.kind == "conv"]
        table = {name: 0.5 for place, name in enumerate(convs) if place == 0 or place >= 7}
        compact, run = prune(net, L1, layers="interior", count="keep_floor", prune_ratio=table)
        assert widths(run, convs) == [32, 64, 128, 128, 256, 256, 256] + [256] * 6
        counted = cost.count(compact, run.example)
        assert (counted.macs, counted.params) == (206_279_680, 5_397_034)

    def test_resnet34_b_and_c(self) -> None:
        net, example = resnet34(), torch.zeros(1, 3, 224, 224)
        table = {
            "layer1.0.conv1": 0,
            "layer2.[03].conv1": 0,
            "layer3.[05].conv1": 0,
            "layer1.*": 0.5,
            "layer2.*": 0.6,
            "layer3.*": 0.4,
        }
        options: dict[str, Any] = {"layers": "interior", "count": "keep_floor"}
        compact, run = prune(net, L1, bare_run(net, example), prune_ratio=table, **options)
        counted = cost.count(compact, example)
        assert (counted.macs, counted.params) == (2_782_269_440, 19_469_372)

        # C cuts the residual stream of stage 3 by the ranking of its projection
        projection = "layer3.0.downsample.0"
        run = bare_run(net, example)
        run.carry_out = False  # the plan is all that is asked
        prune(net, L1, run, prune_ratio=0.2, coupling="aligned", layers=[projection])
        members = [projection, *(f"layer3.{block}.conv2" for block in range(6))]
        best = criteria.l1_norm(net.get_parameter(f"{projection}.weight")).argsort(descending=True)[:205]
        assert run.plan.keep == dict.fromkeys(members, tuple(best.sort().values.tolist()))
        run.phase = Phase(name="again", epochs=1, lr=0.1, prune=True)
        run.plan = Plan()
        prune(net, L1, run, prune_ratio=0.2, coupling="aligned", layers=[projection], count="keep_floor")
        assert widths(run, members) == [204] * 7

    def test_fpgm_counts_of_resnet56(self) -> None:
        """The paper counts each stream at full width, so the two first writers of each are made to cover it."""
        net = resnet56()
        run = bare_run(net)
        convs = [name for name, layer in run.graph.layers.items() if layer.kind == "conv"]
        rankings = {name: torch.arange(run.graph.layers[name].out_channels).double() for name in convs}
        rankings["layer1.0.conv2"] = -rankings["layer1.0.conv2"]
        middle = (torch.arange(32) - 15.5).abs().double(), (torch.arange(64) - 31.5).abs().double()
        rankings["layer2.0.conv2"], rankings["layer3.0.conv2"] = middle  # the outer channels, which the padding lacks

        class Given(Criterion):
            def __call__(self, subject: Subject) -> Tensor:
                return rankings[subject.layer.name]

        compact, run = prune(net, Given(), run, prune_ratio=0.4)
        assert widths(run, convs) == [10] * 19 + [20] * 18 + [39] * 18
        assert cost.count(compact, run.example).macs - 640 == 62_222_400
        assert run.not_pruned == []

    def test_fpgm_skips_projections(self) -> None:
        net, example = resnet50(), torch.zeros(1, 3, 64, 64)
        _, run = prune(net, L1, bare_run(net, example), prune_ratio=0.3)
        convs = [name for name, layer in run.graph.layers.items() if layer.kind == "conv" and "downsample" not in name]
        assert list(run.plan.keep) == convs
        assert "conv1" in convs


class TestChoice:
    def test_scales_of_layers_do_not_matter(self) -> None:
        net = resnet20(width=8)
        scaled = copy.deepcopy(net)
        with torch.no_grad():
            for place, parameter in enumerate(scaled.parameters()):
                parameter.mul_(1.5**place)
        for criterion, scope in product((L1, L2, FPGM), ("layer", "global")):
            runs = [bare_run(one) for one in (net, scaled)]
            for run, one in zip(runs, (net, scaled), strict=True):
                run.carry_out = False  # the outputs of the scaled net overflow
                prune(one, criterion, run, prune_ratio=0.4, scope=scope)
            assert runs[0].plan.keep and runs[0].plan == runs[1].plan

    def test_shrunk_is_zeroed(self, examples: Tensor) -> None:
        net = resnet20(width=8).eval()
        for options in (
            {"prune_ratio": 0.5},
            {"target_macs": 0.4, "coupling": "aligned"},
            {"target_params": 0.4, "scope": "global", "round_to": 4},
            {"prune_ratio": 0.7, "scope": "global", "min_channels": 0},
        ):
            compact, run = prune(net, FPGM, **options)
            zeroed = zero(net, run.graph, run.plan)
            torch.testing.assert_close(compact.eval()(examples), zeroed.eval()(examples), atol=1e-5, rtol=0)

    def test_a_target_replaces_the_ratio_and_is_met(self) -> None:
        for coupling in ("free", "aligned"):
            compact, run = prune(resnet20(), FPGM, prune_ratio=0.9, target_macs=0.5, coupling=coupling)
            assert run.achieved["reached"] == pytest.approx(0.5, abs=0.005)
            share = cost.count(compact, run.example).macs / run.dense.cost.macs
            assert share == pytest.approx(run.achieved["macs_kept"], abs=1e-12)

    @pytest.mark.parametrize("scope", ["layer", "global"])
    def test_a_target_takes_few_counts(self, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The search bisects on counts from the plan; the net is never cut or run (bench.py has the seconds)."""
        run = bare_run(resnet56())
        method = FilterPruning(criterion=L1, target_macs=0.5, scope=scope)
        scores = {
            name: torch.rand(layer.out_channels) for name, layer in run.graph.layers.items() if layer.kind == "conv"
        }
        counted: list[Plan] = []
        original = ChannelGraph.macs

        def macs(graph: ChannelGraph, plan: Plan) -> int:
            counted.append(plan)
            return original(graph, plan)

        monkeypatch.setattr(ChannelGraph, "macs", macs)
        monkeypatch.setattr(nn.Module, "__call__", None)
        choice = method.choose(scores, run.graph)
        assert choice.achieved["reached"] == pytest.approx(0.5, abs=0.001)
        # two bisections: over shares of 2,032 channels, then over 55 layers, and what is asked once
        assert 0 < len(counted) < 50

    def test_aligned_streams_share_their_channels(self) -> None:
        _, run = prune(resnet20(), FPGM, prune_ratio=0.3, coupling="aligned", round_to=4)
        for group in run.graph.groups():
            kept = {run.plan.keep.get(name) for name in group if not run.graph.layers[name].is_output}
            assert len(kept) <= 1
        assert all(len(kept) % 4 == 0 for kept in run.plan.keep.values())
        _, whole = prune(resnet20(), FPGM, prune_ratio=0.3, coupling="aligned", skip=["conv1"])
        told = {entry["layer"]: entry["reason"] for entry in whole.not_pruned}
        assert told["layer1.2.conv2"] == "it shares its channels with conv1: it is to stay whole"

    def test_mix_takes_both_floors(self) -> None:
        _, run = prune(resnet20(), GeometricMedian(norm_ratio=0.1), prune_ratio=0.4)
        assert widths(run, ["conv1", "layer2.0.conv1", "layer3.0.conv1"]) == [11, 20, 39]

    def test_bn_scores_only_what_a_norm_follows(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)
        )
        nn.init.uniform_(net.get_parameter("1.bias"))
        _, run = prune(net, BatchNormStatistic(statistic="mean"), prune_ratio=0.5)
        assert list(run.plan.keep) == ["0"]
        assert run.not_pruned == [{"layer": "3", "reason": "no norm layer follows"}]
        bare = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
        with pytest.raises(
            UserError, match="can score none of the layers to prune, for example 0: no norm layer follows"
        ):
            prune(bare, BatchNormStatistic(statistic="mean"), prune_ratio=0.5)

    def test_compensation_keeps_the_mean_output(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32, momentum=1.0), nn.ReLU())
        net.extend([nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8, momentum=1.0)])
        nn.init.normal_(net.get_parameter("1.bias"))
        images, example = torch.randn(64, 3, 8, 8), torch.zeros(1, 3, 8, 8)
        net.train()(images)  # the running statistics are now those of these images
        options: dict[str, Any] = {"prune_ratio": 0.4, "layers": ["0"]}
        shifts = []
        for compensate in (False, True):
            norms = BatchNormStatistic(statistic="mean")
            compact, _ = prune(net, norms, bare_run(net, example), compensate_mean=compensate, **options)
            with torch.no_grad():
                difference = compact.eval()(images) - net.eval()(images)
            shifts.append(float(difference.mean(dim=(0, 2, 3)).abs().max()))
        assert shifts[0] > 0.05
        assert shifts[1] < 0.01

    def test_greedy_leaves_out_what_the_layers_before_have_lost(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1)
        )
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))  # channel 0 goes
            net[2].weight.copy_(torch.tensor([[5.0, 1.0], [0.0, 2.0]]).reshape(2, 2, 1, 1))
        example = torch.zeros(1, 1, 4, 4)
        plans = [
            prune(net, FilterNorm(order=1, strategy=strategy), bare_run(net, example), prune_ratio=0.5)[1].plan.keep
            for strategy in ("independent", "greedy")
        ]
        assert plans == [{"0": (1,), "2": (0,)}, {"0": (1,), "2": (1,)}]

    def test_greedy_changes_nothing_where_only_first_convs_are_cut(self) -> None:
        net = resnet20(width=8)
        one, other = (
            prune(net, FilterNorm(order=1, strategy=s), prune_ratio=0.3, layers="interior")[1].plan
            for s in ("independent", "greedy")
        )
        assert one == other

    def test_random_follows_the_seed(self) -> None:
        net = resnet20(width=8)
        plans = [prune(net, Random(), bare_run(net, seed=seed), prune_ratio=0.5)[1].plan for seed in (0, 0, 1)]
        assert plans[0] == plans[1] != plans[2]

    def test_like_another_run(self, tmp_path: Path) -> None:
        net = resnet20(width=8)
        _, model = prune(net, FPGM, prune_ratio=0.6, scope="global")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "plan.json").write_text(model.plan.to_json())
        (tmp_path / "model" / "net.yaml").touch()  # by which the folder is known; only the plan is read
        _, run = prune(net, Random(), prune_ratio=0.1, like=str(tmp_path))
        names = list(model.graph.layers)[:-1]
        assert widths(run, names) == widths(model, names)
        assert run.plan != model.plan
        with pytest.raises(UserError, match=r"^method.like=.* is no folder; give the folder of a finished run"):
            prune(net, Random(), like=str(tmp_path / "nothing"))

    def test_steps_go_on_from_the_plan_in_force(self) -> None:
        net = resnet20()
        run = bare_run(net, fraction=0.5)
        prune(net, FPGM, run, prune_ratio=0.51)
        half = run.plan
        run.phase = Phase(name="second", epochs=1, lr=0.1, prune=True)
        prune(net, FPGM, run, prune_ratio=0.51)
        assert all(set(run.plan.keep[name]) < set(kept) for name, kept in half.keep.items())
        assert widths(run, ["layer3.0.conv1"]) == [64 - 32]
        assert len(half.keep["layer3.0.conv1"]) == 64 - 19  # 1 - sqrt(0.49) = 30 %

    def test_a_net_without_convolutions_loses_neurons(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 2))
        _, run = prune(net, L2, bare_run(net, torch.zeros(1, 3, 2, 2)), prune_ratio=0.3)
        assert {name: len(kept) for name, kept in run.plan.keep.items()} == {"1": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prune_ratio": 0.5, "layers": "interiro"},
            r"layers must be one of all, interior or a list.*did you mean interior",
        ),
        ({"prune_ratio": 0.5, "layers": ["layer9.*"]}, "method.layers: 'layer9.*' matches no layer"),
        ({"prune_ratio": 0.5, "skip": ["stem"]}, "method.skip: 'stem' matches no layer"),
        (
            {"prune_ratio": {"layer1.0.conv7": 0.5}},
            "'layer1.0.conv7', which matches none of the 19 layers to prune; did you mean layer1.0.conv",
        ),
        ({"target_macs": 0.001}, r"target_macs=0.001 is out of reach: .* [\d.]+ of the dense net's macs stay"),
        ({"prune_ratio": None}, "exactly one of prune_ratio, target_macs, target_params and target_latency"),
        ({"target_macs": 0.5, "target_params": 0.5}, "got target_macs=0.5 and target_params=0.5"),
        ({"target_macs": 0.5, "like": "x"}, "method.like takes the counts of another run"),
    ],
)
def test_mistakes_are_refused_before_training(options: dict[str, Any], message: str) -> None:
    net = resnet20(width=8)
    with pytest.raises(UserError, match=message):
        FilterPruning(criterion=L2, **options).check(net, bare_run(net))


def test_more_mistakes() -> None:
    net = resnet20(width=8)
    with pytest.raises(UserError, match=r"greedy .* needs method\.coupling=free"):
        FilterPruning(criterion=FilterNorm(order=1, strategy="greedy"), prune_ratio=0.5, coupling="aligned")
    method = FilterPruning(criterion=L2, prune_ratio=0.5, compensate_mean=True)
    with pytest.raises(UserError, match="with schedule=simultaneous set it to false"):
        method.check(net, bare_run(net, schedule="simultaneous"))
    soft = FilterPruning(criterion=L2, prune_ratio=0.5, schedules=["simultaneous", "scratch"])
    with pytest.raises(UserError, match="schedule=oneshot is not supported by this method; use one of: scratch, simul"):
        soft.check(net, bare_run(net, schedule="oneshot"))
