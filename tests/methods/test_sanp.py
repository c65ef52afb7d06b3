from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.config.phase import Phase
from prunebench.core.task import Batch, Classification
from prunebench.errors import UserError
from prunebench.layers.gated_conv import gated_layers
from prunebench.layers.saliency import recorded_decisions
from prunebench.measure import cost
from prunebench.methods.sanp import SelfAdaptive
from prunebench.models.resnet import resnet18
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11
from prunebench.nets.export import export
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run
from tests.methods.gates import gate

CONFORMANCE = {
    "sanp": Conformance(options=("method.cost_weight=1000", "method.timed_samples=5"), may_miss=True, closes=True)
}

IMAGE = torch.zeros(1, 3, 32, 32)


def test_everything_but_the_first_convolution_and_shortcuts_is_gated() -> None:
    gated, _ = gate(resnet20(shortcut="B"), IMAGE)
    names = list(gated_layers(gated))
    assert len(names) == 18 and "conv1" not in names and not any("shortcut" in name for name in names)
    gated, _ = gate(vgg11(), IMAGE)
    assert list(gated_layers(gated)) == [f"features.{i}" for i in (4, 8, 11, 15, 18, 22, 25)]
    gated, _ = gate(resnet18(), torch.zeros(1, 3, 64, 64))
    assert len(gated_layers(gated)) == 16


def test_layers_may_be_empty_only_where_an_addition_bypasses_them() -> None:
    residual, plain = gate(resnet20(), IMAGE)[0], gate(vgg11(), IMAGE)[0]
    assert all(layer.gate.may_be_empty for layer in gated_layers(residual).values())
    assert not any(layer.gate.may_be_empty for layer in gated_layers(plain).values())
    with torch.no_grad():
        for layer in gated_layers(plain).values():
            layer.gate.excite.bias.fill_(-50.0)
    with recorded_decisions(plain.eval()) as decisions:
        plain(torch.randn(2, 3, 32, 32))
    assert all((decision.sum(1) == 1).all() for decision in decisions.values())


def test_the_closed_form_of_the_open_net_is_the_counted_net() -> None:
    for net in (resnet20(shortcut="B"), vgg11()):
        gated, method = gate(net, IMAGE)
        assert method._form is not None
        assert method._form.full == cost.count(net, IMAGE).macs
        with recorded_decisions(gated) as decisions:
            gated(torch.randn(2, 3, 32, 32))
        assert method._form.ratios(decisions).tolist() == [1.0, 1.0]
        spm = sum(layer.gate.excite.weight.numel() for layer in gated_layers(gated).values())
        assert cost.count(gated, IMAGE).macs == method._form.full + spm


def test_attach_is_idempotent_and_leaves_the_net_alone() -> None:
    net = resnet20()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method, bare = SelfAdaptive(target_macs=0.5), bare_run(net, IMAGE)
    once = method.attach(net, bare)
    assert method.attach(once, bare) is once
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.manual_seed(5)
    again = SelfAdaptive(target_macs=0.5).attach(net, bare_run(net, IMAGE))
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_only_the_gates_biases_are_spared_from_weight_decay() -> None:
    gated, method = gate(resnet20(), IMAGE, hidden_ratio=4)
    groups = method.param_groups(gated, Phase(name="train", epochs=1, lr=0.1))
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(gated.parameters()))
    spared = {id(p) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]}
    names = {name for name, p in gated.named_parameters() if id(p) in spared}
    assert names == {name for name, _ in gated.named_parameters() if ".gate." in name and name.endswith("bias")}


@pytest.mark.parametrize(("distance", "expected"), [("squared", 5 * 0.25), ("abs", 5 * 0.5), ("hinge", 5 * 0.25)])
def test_the_terms_of_the_loss(distance: str, expected: float) -> None:
    gated, method = gate(resnet20(), IMAGE, target_macs=0.5, distance=distance)
    batch = (torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))
    terms = method.losses(gated, batch, Classification(10))
    assert list(terms) == ["ce", "cost"]
    assert float(terms["cost"].detach()) == pytest.approx(expected)  # everything is on at the start
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in gated.parameters())


def test_hinge_asks_for_nothing_below_the_target() -> None:
    gated, method = gate(resnet20(), IMAGE, target_macs=0.5, distance="hinge")
    with torch.no_grad():
        for layer in gated_layers(gated).values():
            layer.gate.excite.bias.fill_(-5.0)
    terms = method.losses(gated, (torch.randn(2, 3, 32, 32), torch.tensor([0, 1])), Classification(10))
    assert float(terms["cost"].detach()) == 0.0


def test_the_target_falls_from_the_whole_net_through_the_ramp() -> None:
    bare = bare_run(resnet20(), IMAGE, epochs=5)  # of two steps; ramp 0.4: four steps from 1 to 0.5, then constant
    method = SelfAdaptive(target_macs=0.5, ramp=0.4)
    net = method.attach(bare.template, bare)
    method.start_epoch(net, bare.clock())
    seen, selectable = [], []
    for step in range(6):
        seen.append(method.target_now)
        selectable.append(method.selectable(net))
        method.after_step(net, bare.clock().at(step))
    assert seen == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5, 0.5])
    assert selectable == [False] * 4 + [True] * 2
    for step in (2, 6):  # where the second and the fourth epoch start
        resumed = SelfAdaptive(target_macs=0.5, ramp=0.4)
        resumed.load_state_dict(method.state_dict())
        resumed.attach(net, bare)
        resumed.start_epoch(net, bare.clock().at(step))
        assert resumed.target_now == ([*seen, method.target_now])[step]


class CostOnly(Classification):
    """A task without a loss of its own."""

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        net(batch[0])
        return {}


@pytest.mark.parametrize("target", [0.3, 0.6])
def test_the_cost_alone_drives_the_mean_to_the_target(target: float) -> None:
    net = resnet20(width=4)
    gated, method = gate(net, torch.zeros(1, 3, 8, 8), target_macs=target)
    images = torch.randn(64, 3, 8, 8)
    gates = [p for layer in gated_layers(gated).values() for p in layer.gate.parameters()]
    optimizer = torch.optim.SGD(gates, lr=1.0)
    for _ in range(60):
        terms = method.losses(gated, (images, images), CostOnly(num_classes=10))
        optimizer.zero_grad()
        terms["cost"].backward()
        optimizer.step()
    assert method._form is not None
    with torch.no_grad(), recorded_decisions(gated) as decisions:
        gated(images)
    assert float(method._form.ratios(decisions).mean()) == pytest.approx(target, abs=0.02)


def test_a_run_reports_the_cost_of_each_sample(tmp_path: Path) -> None:
    net = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
    wanted = ("method=sanp", "method.cost_weight=30", "method.timed_samples=5", "schedule=simultaneous")
    longer = "schedule.phases.train.epochs=5"  # after two, every gate still says the same for all samples
    result, folder = run(tmp_path, *SHORT, *net, *wanted, longer)
    final, dense = result["cost"]["final"], result["cost"]["dense"]
    per_sample = final["per_sample"]
    assert final["macs"] == final["macs_backbone"] == round(per_sample["mean"]) < dense["macs"]
    assert final["flops"] == 2 * final["macs"]
    assert per_sample["num_samples"] == sum(per_sample["histogram"]["counts"]) == 360
    assert 0 < per_sample["min"] <= per_sample["mean"] <= per_sample["max"] <= dense["macs"]
    assert final["macs_masked"] == dense["macs"] + final["macs_spm"]
    assert "no batched speed-up" in final["note"]
    rows = {row["layer"]: row for row in result["cost"]["per_layer"]}
    assert sum(row["macs"] for row in rows.values()) == pytest.approx(final["macs"] + final["macs_spm"], abs=10)
    assert all(0 <= row["keep_ratio"] <= 1 for name, row in rows.items() if name.endswith(".conv"))
    assert result["cost"]["params_removed"] < 0  # the gates add some
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    assert result["budget"]["num_compared"] == 256 and result["budget"]["num_other_decisions"] == 0
    assert {"dense", "masked", "skipping"} < set(final["sample_latency"])
    assert {"ce", "cost"} <= {key.removeprefix("train/") for row in _history(folder) for key in row}

    # what is loaded is the dynamic net, and its own count of the test set is the stored one
    loaded = prunebench.load(folder, trust=True)
    assert len(gated_layers(loaded)) == 6
    patterns = set()
    with torch.no_grad(), recorded_decisions(loaded) as decisions:
        loaded(torch.randn(64, 1, 8, 8))
    for i in range(64):
        patterns.add(tuple(torch.cat([decision[i] for decision in decisions.values()]).tolist()))
    assert len(patterns) > 1
    assert export(folder, "torch_export", trust=True).max_abs_diff < 1e-5


def _history(folder: Path) -> list[dict[str, str]]:
    import csv

    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_macs": 1.0}, r"target_macs must be a number in \(0, 1\), got 1.0"),
        ({"target_macs": 0.5, "ramp": 1.5}, r"ramp must be a number in \[0, 1\] \(a share of the phase\), got 1.5"),
        ({"target_macs": 0.5, "cost_weight": -1}, "cost_weight must be a number of at least 0, got -1"),
        ({"target_macs": 0.5, "distance": "square"}, "distance must be one of squared, .*did you mean squared"),
        ({"target_macs": 0.5, "hidden_ratio": 0}, "hidden_ratio must be a whole number of at least 1 or null, got 0"),
        ({"target_macs": 0.5, "threshold": 0}, r"threshold must be a number in \(0, 1\), got 0"),
        ({"target_macs": 0.5, "timed_samples": -1}, "timed_samples must be a whole number of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SelfAdaptive(**options)


def test_what_cannot_work_is_refused_before_training() -> None:
    net = resnet20()
    with pytest.raises(UserError, match=r"target_macs=0.005 is out of reach: layers without a gate cost 0.011"):
        SelfAdaptive(target_macs=0.005).check(net, bare_run(net, IMAGE))
    with pytest.raises(UserError, match=r"'layer9.\*' matches no layer"):
        SelfAdaptive(target_macs=0.5, layers=["layer9.*"]).check(net, bare_run(net, IMAGE))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(UserError, match="gates convolutions, and none"):
        SelfAdaptive(target_macs=0.5).check(flat, bare_run(flat, IMAGE))
    with pytest.raises(UserError, match="schedule=oneshot is not supported"):
        SelfAdaptive(target_macs=0.5).check(net, bare_run(net, IMAGE, schedule="oneshot"))
