from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.budget.by_gates import select_epoch
from prunebench.config.phase import Phase
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.methods.bases.channel_gates import gates_of
from prunebench.methods.pruning_from_scratch import PruningFromScratch, _gated
from prunebench.models import resnet_cifar, vgg_cifar
from prunebench.nets.dense_net import DenseNet, make_net
from prunebench.run import assemble
from prunebench.run.job import Job
from prunebench.surgery.shrink import shrink
from prunebench.training.lit import Lit
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

CONFORMANCE = {"pruning_from_scratch": Conformance(options=("method.search_epochs=2",), may_miss=True)}

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
METHOD = (*SHORT, *NET, "method=pruning_from_scratch", "method.search_epochs=2")
SCRATCH = (*METHOD, "schedule=scratch", "method.target_macs=0.6")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Result and folder of one run from scratch."""
    return run(tmp_path_factory.mktemp("scratch"), *SCRATCH)


@functools.cache  # tracing takes a second
def described(build: Any, **settings: Any) -> DenseNet:
    target = {"_target_": f"{build.__module__}.{build.__name__}", **settings}
    return DenseNet(target, make=lambda s, _: make_net(s), example=torch.zeros(1, 3, 32, 32))


def built(outputs: Path, *overrides: str) -> tuple[Job, nn.Module, PruningFromScratch]:
    config, _ = configure(outputs, *METHOD, "schedule=scratch", *overrides)
    job, net = assemble.build(config, outputs / "run")
    method = job.method
    assert isinstance(method, PruningFromScratch)
    return job, net, method


class TestPublishedNets:
    """Counts computed from the official code: models/*.py and flop_counter.py."""

    @pytest.mark.parametrize(
        ("build", "settings", "macs"),
        [
            # the official counter adds the 64 * 8 * 8 inputs of a ResNet's average pooling
            (resnet_cifar.resnet20, {"shortcut": "B"}, 40_817_280 - 4096),
            (resnet_cifar.resnet56, {"shortcut": "B"}, 125_751_936 - 4096),
            (resnet_cifar.resnet110, {"shortcut": "B"}, 253_153_920 - 4096),
            (resnet_cifar.resnet56, {"shortcut": "B", "width": 20}, 196_347_680 - 80 * 64),
            (vgg_cifar.vgg16, {"classifier": "linear"}, 313_201_664),
            (vgg_cifar.vgg19, {"classifier": "linear"}, 398_136_320),
            (vgg_cifar.vgg16, {"classifier": "linear", "width": 80}, 488_823_040),
        ],
    )
    def test_macs(self, build: Any, settings: dict[str, Any], macs: int) -> None:
        assert cost.count(build(**settings), torch.zeros(1, 3, 32, 32)).macs == macs

    @pytest.mark.parametrize(
        ("build", "settings", "num_gates"),
        [
            (resnet_cifar.resnet56, {"shortcut": "B"}, 1260),
            (resnet_cifar.resnet56, {"shortcut": "A"}, 1260),
            (vgg_cifar.vgg16, {"classifier": "linear"}, 5280),
        ],
    )
    def test_gates_of_the_widened_net(self, build: Any, settings: dict[str, Any], num_gates: int) -> None:
        dense = described(build, **settings)
        method = PruningFromScratch(target_macs=0.5)
        bare = bare_run(dense, schedule="scratch")
        bare.phase = method.search
        method.check(dense.template, bare)
        wide = dense.variant(width=80 if build is vgg_cifar.vgg16 else 20)
        gated = method.attach(bare.adopt(wide), bare)
        assert sum(len(gate.gate) for gate in gates_of(gated)) == num_gates == method.gates.shape[1]
        assert method.attach(gated, bare) is gated
        trained = [name for name, parameter in gated.named_parameters() if parameter.requires_grad]
        assert all(name.endswith("gate.gate") for name in trained)
        if build is resnet_cifar.resnet56:
            assert len(trained) == 27
            assert all(".bn1." in name for name in trained)
        else:
            assert len(trained) == 13

    @pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
    @pytest.mark.parametrize(
        ("build", "settings", "width"),
        [
            (resnet_cifar.resnet20, {"shortcut": "B"}, 20),
            (resnet_cifar.resnet56, {"shortcut": "A"}, 20),
            (vgg_cifar.vgg16, {"classifier": "linear"}, 80),
        ],
    )
    def test_the_target_is_met_within_two_percent(
        self, build: Any, settings: dict[str, Any], width: int, target: float
    ) -> None:
        dense = described(build, **settings)
        wide = dense.variant(width=width)
        method = PruningFromScratch(target_macs=target)
        bare = bare_run(dense, schedule="scratch")
        bare.phase = method.search
        method.attach(bare.adopt(wide), bare)
        method.gates.uniform_(-0.3, 1.3).clamp_(0, 1)  # many are exactly 0 or 1, as after a search
        choice = method._choose(bare)
        small = shrink(wide.fresh("x"), wide.graph, choice.plan)
        macs = cost.count(small, torch.zeros(1, 3, 32, 32)).macs
        assert choice.achieved["reached"] == pytest.approx(macs / dense.cost.macs)
        assert macs / dense.cost.macs == pytest.approx(target, rel=0.02)
        assert small(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_layers_without_gates_have_a_reason() -> None:
    net = resnet_cifar.resnet20()
    net.set_submodule("layer1.1.bn1", nn.Identity())
    gated, whole = _gated(bare_run(net).graph)
    assert whole == {"layer1.1.conv1": "no norm layer follows, behind which gates could stand"}
    assert {*gated, *whole} == {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)}


def test_epochs_grow_with_what_is_saved() -> None:
    share = {0.3: 228, 0.4: 266, 0.5: 320, 0.6: 400, 0.7: 533, 0.75: 640, 0.8: 800, 0.9: 1600}
    phase = Phase(name="train", epochs=160, lr=0.1)
    assert {p: phase.stretched(1, 1 - p).epochs for p in share} == share


def test_the_epoch_is_the_best_of_those_that_are_sparse_enough() -> None:
    # shares of gates that are not 0: 1, 0.5, 0.25, 0.25, 0.5
    gates = torch.zeros(5, 4)
    for epoch, alive in enumerate((4, 2, 1, 1, 2)):
        gates[epoch, :alive] = 0.5
    accuracies = [0.9, 0.3, 0.4, 0.4, 0.8]
    assert select_epoch(gates, accuracies, density=0.25) == 2  # the first of equals
    assert select_epoch(gates, accuracies, density=0.5) == 4
    assert select_epoch(gates, accuracies, density=0.2) == 4  # none: the last
    assert select_epoch(gates, [None] * 5, density=0.5) == 4  # no validation split: the last


def test_only_gates_and_statistics_move_in_the_search(tmp_path: Path) -> None:
    job, _, method = built(tmp_path)
    wide = job.adopt(job.dense.variant(width=10))
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    searched = job.fit(wide, method.search)
    after = {name.replace(".norm.", "."): value for name, value in searched.state_dict().items()}
    gates = torch.cat([after.pop(name) for name in list(after) if name.endswith("gate.gate")])
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "running_" in name or "num_batches" in name}
    assert ((gates >= 0) & (gates <= 1)).all()
    assert (gates < 1).any()
    assert torch.equal(method.gates[-1], gates)
    assert not torch.equal(method.gates[0], gates)
    # the penalty is one of the logged terms, and the mean gate falls towards 0.2
    rows = [row for row in job.history if row["phase"] == "search"]
    assert [row["train/density"] > 0 for row in rows] == [True, True]
    assert rows[1]["method/mean_gate"] < rows[0]["method/mean_gate"] < 1


def test_a_run_is_relative_to_the_standard_net(scratch: tuple[dict[str, Any], Path]) -> None:
    result, folder = scratch
    dense, wide = (
        cost.count(resnet_cifar.CifarResNet(blocks=1, num_classes=10, in_channels=1, shortcut="A", width=width),
                   torch.zeros(1, 1, 8, 8))
        for width in (8, 10)
    )  # fmt: skip
    costs, budget = result["cost"], result["budget"]
    assert (costs["dense"]["macs"], costs["dense"]["params"]) == (dense.macs, dense.params)
    assert (costs["base"]["macs"], costs["base"]["params"]) == (wide.macs, wide.params)
    assert costs["base"]["model"]["width"] == 10
    assert costs["macs_removed"] == pytest.approx(1 - costs["final"]["macs"] / dense.macs)
    assert budget["reached"] == pytest.approx(costs["final"]["macs"] / dense.macs)
    # the stream keeps its width of 10, 20, 40 channels; only the blocks' inner widths differ
    kept = {row["layer"]: (row["out_channels"], row["dense_out_channels"]) for row in costs["per_layer"]}
    assert [kept[f"layer{stage}.0.conv2"] for stage in (1, 2, 3)] == [(10, 10), (20, 20), (40, 40)]
    assert sum(kept[f"layer{stage}.0.conv1"][0] for stage in (1, 2, 3)) == round(70 * budget["channels_kept"])

    search, train = result["phases"]
    assert (search["name"], search["epochs"], train["epochs"]) == ("search", 2, int(2 / 0.6))
    assert search["settings"]["optimizer"] == "adam"
    compute = budget["search"]
    assert compute["seconds"] == search["seconds"] > 0
    # frozen weights: two passes instead of three
    assert compute["train_macs"] == 2 * wide.macs * result["data"]["num_train"] * 2
    assert compute["pretraining_train_macs"] == 3 * dense.macs * result["data"]["num_train"] * 2
    assert compute["pretraining_seconds"] is None

    net = prunebench.load(folder, trust=True)
    assert cost.count(net, torch.zeros(1, 1, 8, 8)).macs == costs["final"]["macs"]
    assert not gates_of(net)


def test_the_random_control_has_the_same_macs_and_no_search(
    tmp_path: Path, scratch: tuple[dict[str, Any], Path]
) -> None:
    """Gates from the seed through the same bisection; two seeds are two structures."""
    results = [run(tmp_path, *SCRATCH, "method.structure=random", f"seed={seed}") for seed in (0, 1)]
    learnt = scratch[0]
    plans = []
    for result, folder in results:
        assert [phase["name"] for phase in result["phases"]] == ["train"]
        assert "search" not in result["budget"] and "selected_epoch" not in result["budget"]
        assert result["phases"][-1]["epochs"] == learnt["phases"][-1]["epochs"]  # trained as long
        assert result["budget"]["reached"] == pytest.approx(0.6, abs=0.05)  # a small net has coarse channels
        assert result["cost"]["base"] == learnt["cost"]["base"]
        plans.append((folder / "model" / "plan.json").read_text())
    assert plans[0] != plans[1] != (scratch[1] / "model" / "plan.json").read_text()


def test_equal_compute_beside_a_pretraining(tmp_path: Path, scratch: tuple[dict[str, Any], Path]) -> None:
    result, _ = run(tmp_path, *METHOD, "schedule=scratch_b", "method.target_macs=0.6")
    pretrain, search, anew = result["phases"]
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", "search", "scratch"]
    assert "dense" in result["metrics"]
    assert result["budget"]["search"]["pretraining_seconds"] == pretrain["seconds"]
    assert anew["epochs"] == int(2 * result["cost"]["dense"]["macs"] / result["cost"]["final"]["macs"])
    # the structure does not depend on the pretraining
    widths = [[row["out_channels"] for row in r["cost"]["per_layer"]] for r in (result, scratch[0])]
    assert widths[0] == widths[1]
    assert search["epochs"] == 2


def test_nothing_is_inherited(tmp_path: Path) -> None:
    job, net, method = built(tmp_path)
    method.run(net, job)
    searched = job.folder / "phases" / "search" / "weights.safetensors"
    assert searched.exists()
    small = job.fresh(method.prune(net, job).net)
    wide = job.dense.variant(width=10)
    values = torch.cat([p.detach().flatten() for p in wide.fresh("variant").parameters() if p.dim() == 4])
    drawn = torch.cat([p.detach().flatten() for p in small.parameters() if p.dim() == 4])
    # a weight that was taken over would be found again; others coincide by chance in float32
    assert torch.isin(drawn, values).float().mean() < 0.01


def test_an_interrupted_search_ends_with_the_same_gates(
    tmp_path: Path, scratch: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    straight, _ = scratch
    original = Lit.training_step

    def cut_power(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == "search" and self.current_epoch == 1 and batch_idx == 3:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", cut_power)
    with pytest.raises(PowerCut):
        run(tmp_path, *SCRATCH)
    monkeypatch.setattr(Lit, "training_step", original)
    resumed, _ = run(tmp_path, *SCRATCH)
    for key in ("mean_gate", "nonzero_gates", "reached", "selected_epoch"):
        assert resumed["budget"][key] == straight["budget"][key]
    assert resumed["metrics"]["final"] == straight["metrics"]["final"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_macs": 1.0}, r"target_macs must be a number in \(0, 1\), got 1.0"),
        ({"widen": 0.5}, "widen must be a number of at least 1, got 0.5"),
        ({"density": 1.5}, r"density must be a number in \[0, 1\], got 1.5"),
        ({"search_epochs": 0}, "search_epochs must be a whole number of at least 1, got 0"),
        ({"iterate": "closet"}, "must be one of last, closest, within_budget, got 'closet'; did you mean"),
    ],
)
def test_options_outside_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PruningFromScratch(**{"target_macs": 0.5, **options})


def test_refusals_before_any_training(tmp_path: Path) -> None:
    job, net, method = built(tmp_path)
    method.target_macs = 0.05
    with pytest.raises(UserError, match=r"target_macs=0.05 is out of reach: .* 0\.\d+ of the standard net's MACs stay"):
        method.check(net, job)
    job.schedule = "finetune"
    with pytest.raises(UserError, match="schedule=finetune is not supported"):
        method.check(net, job)
    with pytest.raises(UserError, match="has no argument 'width' with a default"):
        run(tmp_path, *SHORT, "model=googlenet", "method=pruning_from_scratch", "schedule=scratch")
