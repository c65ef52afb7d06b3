"""Network slimming: the penalty's gradient, the counts of the paper, several passes, what a run records."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.task import Batch, Classification
from prunebench.errors import UserError
from prunebench.layers.scatter import Gather
from prunebench.methods.slimming import Slimming
from prunebench.models.densenet_cifar import densenet40
from prunebench.models.lenet import lenet300_100
from prunebench.models.mlp import mlp_784_500_300
from prunebench.models.preresnet_cifar import CifarPreResNet, preresnet164
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11, vgg16, vgg19
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from tests.bare import bare_run
from tests.kit import SHORT, run

NET = ("model=preresnet20", "model.width=4")


class NoLoss(Classification):
    """A loss without gradient."""

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": 0.0 * torch.stack([p.sum() for p in net.parameters()]).sum()}


class OneNorm(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def watched(net: nn.Module, **settings: Any) -> Slimming:
    method = Slimming(**{"penalty": 1e-2, "prune_ratio": 0.5, **settings})
    method.check(net, bare_run(net, torch.zeros(1, 3, 32, 32)))
    return method


def test_one_step_is_the_sub_gradient() -> None:
    # lr 0.1, lambda 1e-2: each scale moves by 0.001 towards 0, a scale of 0 stays
    net = OneNorm()
    method = watched(net)
    net.norm.weight.data = torch.tensor([0.5, -0.5, 0.0])
    before = copy.deepcopy(net.state_dict())
    terms = method.losses(net, (torch.zeros(0), torch.zeros(0)), NoLoss(num_classes=5))
    assert set(terms) == {"ce", "scale_l1"}
    assert float(terms["scale_l1"].detach()) == pytest.approx(0.01 * 1.0)
    sum(terms.values()).backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    torch.testing.assert_close(net.norm.weight.data, torch.tensor([0.499, -0.499, 0.0]))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if k != "norm.weight")


def test_the_report_counts_small_scales() -> None:
    net = OneNorm(4)
    method = watched(net, small=0.1)
    net.norm.weight.data = torch.tensor([0.5, -0.05, 0.0, 0.25])
    assert method.report(net) == {"small_scales": 0.5, "mean_scale": pytest.approx(0.2)}


@pytest.mark.parametrize(
    ("build", "settings", "total"),
    [
        (vgg19, {}, 5504),
        (preresnet164, {}, 12_112),
        (densenet40, {}, 9_048),
        (lambda: densenet40(stem=24), {}, 9_360),
        (vgg16, {}, 4224),
        (vgg16, {"linear": True}, 4224 + 512),
    ],
)
def test_number_of_scales(build, settings, total) -> None:
    method = watched(build(), **settings)
    assert sum(len(live) for live in method._live.values()) == total


def test_vgg19_of_the_supplement() -> None:
    # Table 5: FLOPs -77.2 %, parameters -95.6 %
    widths = [22, 62, 83, 119, 193, 168, 85, 40, *[32] * 7, 38]
    assert sum(widths) == 1034
    graph = ChannelGraph.trace(vgg19(), torch.zeros(1, 3, 32, 32))
    convs = [name for name, layer in graph.layers.items() if layer.kind == "conv"]
    plan = Plan({name: tuple(range(width)) for name, width in zip(convs, widths, strict=True)})
    assert graph.macs(Plan()) == 398_136_320
    assert graph.params(Plan()) == 20_035_018
    assert 1 - graph.macs(plan) / 398_136_320 == pytest.approx(0.7723, abs=5e-5)
    assert 1 - graph.params(plan) / 20_035_018 == pytest.approx(0.9558, abs=5e-5)


def random_scales(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data = torch.randn(module.num_features, generator=generator)
    return net


def test_the_stream_of_a_preresnet_stays_whole() -> None:
    net = random_scales(CifarPreResNet(blocks=2, num_classes=10, in_channels=3, width=8))
    bare = bare_run(net)
    compact = bare.note(Slimming(penalty=1e-5, prune_ratio=0.6).prune(net, bare))
    modules = dict(compact.named_modules())
    for name, dense in net.named_modules():
        if name.endswith("conv3"):
            assert modules[name].out_channels == dense.out_channels
        if name.endswith("bn1"):
            assert modules[name].num_features == dense.num_features
            assert modules[name.replace("bn1", "conv1")].in_channels < dense.num_features
    selected = [len(m.places) for m in compact.modules() if isinstance(m, Gather)]
    reading = [modules[name].in_channels for name in bare.plan.inputs if name != "linear"]
    assert sorted(selected) == sorted([*reading, modules["linear"].in_features])
    assert len(selected) == 7
    kept = sum(len(k) for k in (*bare.plan.keep.values(), *bare.plan.inputs.values()))
    total = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert kept == total - (int(total * 0.6) + 1)  # all scales differ and no layer is at its floor


def test_the_scale_of_a_convolution_does_not_matter() -> None:
    net = random_scales(vgg11())
    other = copy.deepcopy(net)
    with torch.no_grad():
        for index, module in enumerate(m for m in other.modules() if isinstance(m, nn.Conv2d)):
            module.weight.mul_(0.1 + index)
    plans = []
    for one in (net, other):
        bare = bare_run(one)
        bare.note(Slimming(penalty=1e-4, prune_ratio=0.7).prune(one, bare))
        plans.append(bare.plan)
    assert plans[0] == plans[1]
    assert len(plans[0].keep) == 8


def test_a_second_pass_counts_only_what_is_left_and_watches_it() -> None:
    net = random_scales(CifarPreResNet(blocks=1, num_classes=10, in_channels=3, width=8))
    method = Slimming(penalty=1.0, prune_ratio=0.75, max_layer_ratio=0.5)
    bare = bare_run(net)
    bare.phases = tuple(Phase(name=f"tune_{f}", epochs=1, lr=0.1, prune=True, fraction=f) for f in (0.5, 1.0))
    bare.phase = bare.phases[0]
    compact = bare.note(method.prune(net, bare))
    first = bare.plan
    total = sum(len(live) for live in watched(net)._live.values())
    method.attach(compact, bare)
    live = sum(len(live) for live in method._live.values())
    assert total / 2 <= live <= total * 0.6  # half, but for the layers whose half is kept
    gammas = method._gammas(compact)
    assert len(gammas) == live
    # the stream's norm keeps its width, but the channels that nobody reads are no scales any more
    kept = list(first.inputs["linear"])
    assert torch.equal(gammas[-len(kept) :], compact.get_parameter("bn.weight")[kept])

    bare.phase = bare.phases[1]
    bare.note(method.prune(net, bare))
    assert all(set(kept) <= set(first.keep.get(name, kept)) for name, kept in bare.plan.keep.items())
    assert all(set(kept) <= set(first.inputs.get(name, kept)) for name, kept in bare.plan.inputs.items())
    left = sum(len(kept) for kept in (*bare.plan.keep.values(), *bare.plan.inputs.values()))
    assert left < 0.62 * live


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty": -1}, "penalty must be a number of at least 0, got -1"),
        ({"penalty": "strong"}, "penalty must be a number of at least 0, got .strong"),
        ({"small": 0}, "small must be a number above 0, got 0"),
        ({"prune_ratio": 1.0}, "prune_ratio"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Slimming(**{"penalty": 1e-4, "prune_ratio": 0.5, **settings})


def test_a_net_without_norms_is_refused_before_training() -> None:
    net = lenet300_100(in_channels=1, image_size=8)
    with pytest.raises(UserError, match="no scale of a norm layer"):
        Slimming(penalty=1e-4, prune_ratio=0.5).check(net, bare_run(net, torch.zeros(1, 1, 8, 8)))
    with pytest.raises(UserError, match=r"method\.skip: 'bn9' matches no layer"):
        watched(OneNorm(), skip=["bn9"])


def test_post_activation_nets_lose_the_insides_of_blocks() -> None:
    net = random_scales(resnet20())
    bare = bare_run(net)
    bare.note(Slimming(penalty=1e-4, prune_ratio=0.5).prune(net, bare))
    assert not bare.plan.inputs
    assert all(name.endswith("conv1") and "layer" in name for name in bare.plan.keep)
    reasons = {entry["layer"]: entry["reason"] for entry in bare.not_pruned}
    assert len(bare.plan.keep) == 9
    assert len(bare.not_pruned) == len(reasons) == 10, "each of the others once, under the name of the layer"
    assert all("addition" in reason for reason in reasons.values())
    assert {*bare.plan.keep, *reasons} == {name for name, layer in bare.graph.layers.items() if layer.kind == "conv"}


class Product(nn.Module):
    """Two layers that might have no common channel, each of which can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1)
        self.norm_a, self.norm_b, self.norm_c = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.a(x)) * torch.tanh(self.norm_b(self.b(x)))
        return self.fc(torch.relu(self.norm_c(self.c(x))).mean((2, 3)))


def test_layers_that_cannot_be_cut_together_are_listed() -> None:
    net = random_scales(Product())
    with torch.no_grad():  # the smallest scales leave a channel of the one factor and another of the other
        net.norm_a.weight.copy_(torch.tensor([9.0, 0.1, 0.1, 0.1]))
        net.norm_b.weight.copy_(torch.tensor([0.1, 0.1, 0.1, 9.0]))
    bare = bare_run(net)
    method = Slimming(penalty=1e-4, prune_ratio=0.5)
    method.check(net, bare)
    bare.note(method.prune(net, bare))
    assert set(bare.plan.keep) <= {"a", "c"} and "a" in bare.plan.keep
    assert {"layer": "b", "reason": "its channels are multiplied with those of a"} in bare.not_pruned


def test_layers_without_a_norm_are_listed() -> None:
    convs = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    net = random_scales(nn.Sequential(*convs, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    bare = bare_run(net)
    bare.note(Slimming(penalty=1e-4, prune_ratio=0.5).prune(net, bare))
    reason = "no norm layer follows, whose scales could switch its channels off"
    assert bare.not_pruned == [{"layer": "0", "reason": reason}, {"layer": "5", "reason": reason}]
    streams = bare_run(random_scales(densenet40()))
    streams.note(Slimming(penalty=1e-4, prune_ratio=0.4).prune(streams.template, streams))
    assert not streams.not_pruned, "the channels of all layers are selected by the norms of others"


def test_a_run_says_what_it_trained_and_measured(tmp_path: Path) -> None:
    chosen = ("method=slimming", "schedule=iterative", "schedule.phases.finetune.rounds=2", "method.prune_ratio=0.6")
    result, folder = run(tmp_path, *SHORT, *NET, *chosen, "method.penalty=0.01")
    assert [p["settings"]["active"] for p in result["phases"]] == [True, True, False]
    # no net was trained without the penalty, so there is no dense baseline to speak of
    assert set(result["metrics"]) >= {"before_cut", "pruned", "final"} and "dense" not in result["metrics"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert all(float(row["train/scale_l1"]) > 0 for row in rows[:4])
    assert all(0 <= float(row["method/small_scales"]) <= 1 for row in rows[:4])
    assert all(row["train/scale_l1"] == row["method/small_scales"] == "" for row in rows[4:])
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    assert 0.3 < result["budget"]["channels_kept"] < 0.5
    # the penalty belongs to this method: its net is not shared with others
    assert (folder / "phases" / "pretrain" / "weights.safetensors").exists()


def test_the_baseline_of_equal_length_is_the_whole_net_through_both_phases(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, *SHORT, *NET, "method=slimming", "method.penalty=0", "method.prune_ratio=0")
    slim, _ = run(tmp_path, *SHORT, *NET, "method=slimming", "method.prune_ratio=0.5")
    assert whole["status"] == "complete" and whole["cost"]["macs_removed"] == 0 < slim["cost"]["macs_removed"]
    trained = [[(phase["name"], phase["epochs"], phase["lr"]) for phase in one["phases"]] for one in (whole, slim)]
    assert trained[0] == trained[1] and [name for name, *_ in trained[0]] == ["pretrain", "finetune"]
    assert whole["phases"][1]["train_macs"] == whole["phases"][0]["train_macs"] > slim["phases"][1]["train_macs"]


def test_pretrained_weights_are_where_the_penalty_begins(tmp_path: Path) -> None:
    dense, trained = run(tmp_path, *SHORT, *NET, "method=none", "schedule=simultaneous")
    weights = trained / "model" / "weights.safetensors"
    chosen = ("method=slimming", "schedule=oneshot", f"model.pretrained={weights}", "method.penalty=0.001")
    result, _ = run(tmp_path, *SHORT, *NET, *chosen)
    assert result["metrics"]["dense"]["accuracy"] == dense["metrics"]["final"]["accuracy"]
    assert result["metrics"]["before_cut"]["nll"] != result["metrics"]["dense"]["nll"]
    assert [p["name"] for p in result["phases"]] == ["pretrain"]
    plain, _ = run(tmp_path, *SHORT, *NET, "method=bn_scale", "schedule=oneshot", f"model.pretrained={weights}")
    assert plain["phases"] == [] and "before_cut" not in plain["metrics"]


@pytest.mark.slow
def test_the_penalty_separates_the_scales(tmp_path: Path) -> None:
    """The same training with and without: with it many scales are near 0, and the cut of those costs less."""
    chosen = (*NET, "latency=false", "trainer.progress=false", "trainer.num_threads=1", "method=slimming")
    long = ("schedule=oneshot", "dataset.epochs.train=30", "method.prune_ratio=0.3")
    results = {}
    for penalty in (0.0, 0.003):
        result, folder = run(tmp_path, *chosen, *long, f"method.penalty={penalty}")
        last = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))[-1]
        metrics = result["metrics"]
        loss = metrics["before_cut"]["accuracy"] - metrics["final"]["accuracy"]
        results[penalty] = float(last["method/small_scales"]), loss
    assert results[0.0][0] < 0.05 and results[0.003][0] > 0.15
    assert results[0.003][1] < 0.75 * results[0.0][1], results


def test_the_mnist_net_of_the_paper() -> None:
    # Table 3: 784-500-300-10 becomes 784-100-60-10, 84.4 % of the parameters go
    net = random_scales(mlp_784_500_300())
    bare = bare_run(net, torch.zeros(1, 1, 28, 28))
    compact = bare.note(Slimming(penalty=1e-4, prune_ratio=0.8, scope="layer").prune(net, bare))
    assert [len(kept) for kept in bare.plan.keep.values()] == [100, 60]
    left = sum(p.numel() for p in compact.parameters())
    assert 1 - left / sum(p.numel() for p in net.parameters()) == pytest.approx(0.844, abs=5e-4)
