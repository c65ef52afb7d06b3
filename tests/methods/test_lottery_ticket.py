"""Lottery tickets: masks level by level, what each arm starts from, and that a level is the first training again."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.errors import UserError
from prunebench.methods.lottery_ticket import ARMS, LotteryTicket
from prunebench.run.bare import BareRun
from tests.bare import bare_run
from tests.kit import SHORT, configure, run
from tests.small_nets import small_resnet

LENET = (*SHORT, "method=lottery_ticket", "dataset.validation=300")


@dataclass(kw_only=True)
class Walk(BareRun):
    """A run whose phases move every tensor of the net at random, and which remembers what each began with."""

    method: LotteryTicket
    began: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ended: dict[str, nn.Module] = field(default_factory=dict)
    trained_like: dict[str, Phase] = field(default_factory=dict)

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        self.phase = phase
        return self.note(self.method.prune(net, self))

    def fit(self, net: nn.Module, phase: Phase) -> nn.Module:
        self.phase = phase
        net = self.method.fresh(net, self) if phase.fresh else net
        net = self.method.attach(net, self) if phase.active else net
        self.began[phase.name] = {name: value.clone() for name, value in net.state_dict().items()}
        self.trained_like[phase.name] = phase
        draws = torch.Generator().manual_seed(len(self.began))
        steps = phase.epochs * self.steps_per_epoch(phase)
        clock = Clock.first(num_epochs=phase.epochs, steps_per_epoch=self.steps_per_epoch(phase), lr=phase.lr)
        with torch.no_grad():
            for step in range(steps):
                for value in net.state_dict().values():
                    moved = torch.randn(value.shape, generator=draws) * 0.1
                    value.copy_(value + (moved if value.is_floating_point() else 1))
                if phase.active:
                    self.method.after_step(net, clock.at(step))
        self.phase_records.append({"name": phase.name})
        self.ended[phase.name] = net
        return net


def walk(net: nn.Module | None = None, *, levels: int = 3, **options: Any) -> Walk:
    net = net or small_resnet(num_classes=10, in_channels=3)
    bare = bare_run(net, schedule="iterative")
    whole = Phase(name="pretrain", epochs=2, lr=0.1, pretrain=True)
    cuts = [Phase(name=f"finetune_{i}", epochs=1, lr=0.01, prune=True, active=True) for i in range(1, levels + 1)]
    method = LotteryTicket(**{"prune_ratio": 0.2, **options})
    made = Walk(
        dense=bare.dense, data=bare.data, task=bare.task, schedule="iterative", phases=(whole, *cuts), method=method
    )
    method.check(net, made)
    method.run(copy.deepcopy(net), made)
    return made


def live(run: Walk, phase: str) -> dict[str, Tensor]:
    """Layer -> its live weights when a phase began."""
    return {name: run.began[phase][f"{name}.weight"] != 0 for name in run.method.masks.names}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_survivors_return_to_the_first_weights_bit_for_bit(scope: str) -> None:
    run = walk(scope=scope)
    start, names = run.began["pretrain"], run.method.masks.names
    before = {name: torch.ones_like(start[f"{name}.weight"], dtype=torch.bool) for name in names}
    assert "linear" in names and any("bn" in key for key in start)
    for level in (1, 2, 3):
        began = run.began[f"ticket_{level}"]
        alive = live(run, f"ticket_{level}")
        for key, value in began.items():
            name = key.removesuffix(".weight")
            kept = alive[name] if key.endswith(".weight") and name in alive else torch.ones_like(value)
            assert torch.equal(value, start[key] * kept), key  # norms' statistics and the classifier are among them
        assert all(not (alive[name] & ~before[name]).any() for name in names)  # nothing comes back
        total, left = sum(m.numel() for m in alive.values()), sum(int(m.sum()) for m in alive.values())
        assert left / total == pytest.approx(0.8**level, abs=3e-3)
        previous = run.ended["pretrain" if level == 1 else f"ticket_{level - 1}"].state_dict()
        for name in names:  # by the final weights, not by those that they return to
            final, gone = previous[f"{name}.weight"].abs(), before[name] & ~alive[name]
            assert scope == "global" or final[gone].max() <= final[alive[name]].min()
        if scope == "global":
            gone = torch.cat([previous[f"{n}.weight"].abs()[before[n] & ~alive[n]] for n in names])
            kept = torch.cat([previous[f"{n}.weight"].abs()[alive[n]] for n in names])
            assert gone.max() <= kept.min()
        ended = run.ended[f"ticket_{level}"]
        assert all(torch.equal(ended.get_parameter(f"{n}.weight") != 0, alive[n]) for n in names)
        before = alive


def test_they_return_to_step_k() -> None:
    at_start, at_three = walk(levels=1), walk(levels=1, rewind_epochs=1, rewind_steps=1)
    assert at_three.method.rewind_step == 3
    draws, expected = torch.Generator().manual_seed(1), at_three.began["pretrain"]
    for _ in range(3):  # what the walk did in its first three steps
        for key, value in expected.items():
            moved = torch.randn(value.shape, generator=draws) * 0.1
            expected[key] = value + (moved if value.is_floating_point() else 1)
    alive = live(at_three, "ticket_1")
    for key, value in at_three.began["ticket_1"].items():
        name = key.removesuffix(".weight")
        assert torch.equal(value, expected[key] * (alive[name] if name in alive and "weight" in key else 1)), key
    assert not torch.equal(at_three.began["ticket_1"]["linear.bias"], at_start.began["ticket_1"]["linear.bias"])
    assert at_three.trained_like["pretrain"].active and not at_start.trained_like["pretrain"].active


def test_shares_by_kind_of_layer() -> None:
    run = walk(levels=1, prune_ratio=0.5, conv_ratio=0.25, output_ratio=0.1)
    for name, mask in live(run, "ticket_1").items():
        gone = int(mask.numel() * (0.1 if name == "linear" else 0.25))
        assert int((~mask).sum()) == gone, name
    run = walk(levels=1, prune_ratio=0.5, scope="global", skip=["linear"], rule="open_lth")
    left = sum(int(mask.sum()) for mask in live(run, "ticket_1").values())
    total = sum(mask.numel() for mask in live(run, "ticket_1").values())
    skipped = run.template.get_parameter("linear.weight").numel()
    assert run.method.level.num_skipped == skipped
    # the framework counts the weights of ignored layers, takes their share from the others, and one more
    assert left == total - math.ceil(0.5 * (total + skipped)) - 1


def test_what_each_arm_begins_with() -> None:
    run = walk(levels=2, arms=list(ARMS))
    names, start = run.method.masks.names, run.began["pretrain"]
    assert [phase for phase in run.began if phase != "pretrain"] == [
        f"{arm}_{level}" for level in (1, 2) for arm in [*ARMS[1:], "ticket"]
    ]
    ticket = live(run, "ticket_2")
    counts = {name: int(mask.sum()) for name, mask in ticket.items()}
    # one cut of the whole net by its final weights
    whole = run.ended["pretrain"].state_dict()
    for name, mask in live(run, "one_shot_2").items():
        number = int((1 - 0.8**2) * mask.numel() + 1e-9)
        order = whole[f"{name}.weight"].abs().flatten().argsort(stable=True)
        assert sorted((~mask).flatten().nonzero().flatten().tolist()) == sorted(order[:number].tolist())
        assert torch.equal(run.began["one_shot_2"][f"{name}.weight"], start[f"{name}.weight"] * mask)
    # values go on, from the arm's own net
    before = run.ended["finetune_1"].state_dict()
    for name, mask in live(run, "finetune_2").items():
        assert torch.equal(run.began["finetune_2"][f"{name}.weight"], before[f"{name}.weight"] * mask)
    assert run.trained_like["finetune_2"].lr == 0.01 and run.trained_like["finetune_2"].epochs == 1
    # the ticket's mask, other weights; as many weights, other places
    for name in names:
        fresh, moved = run.began["random_reinit_2"][f"{name}.weight"], live(run, "random_mask_2")[name]
        assert torch.equal(fresh != 0, ticket[name])
        assert not torch.equal(fresh, start[f"{name}.weight"] * ticket[name])
        assert int(moved.sum()) == counts[name] and not torch.equal(moved, ticket[name])
        assert torch.equal(run.began["random_mask_2"][f"{name}.weight"], start[f"{name}.weight"] * moved)
    first, second = (run.began[f"random_reinit_{level}"]["conv1.weight"] for level in (1, 2))
    assert (first[second != 0] != second[second != 0]).all()  # each level draws anew
    for arm in ("ticket", "one_shot", "random_reinit", "random_mask"):
        phase = run.trained_like[f"{arm}_2"]
        assert phase == replace(run.phases[0], name=phase.name, pretrain=False, active=True, fresh=phase.fresh)
    points = {point.name: point for point in run.method.points(nn.Identity(), run)}
    assert len(points) == 10 and points["ticket_2"].settings["weights_left"] == pytest.approx(0.64, abs=2e-3)
    assert points["ticket_2"].net is run.ended["ticket_2"]


def test_a_ticket_that_only_lends_its_mask_is_not_trained_in_vain() -> None:
    run = walk(levels=2, arms=["random_reinit"])
    assert list(run.began) == ["pretrain", "ticket_1", "random_reinit_1", "random_reinit_2"]
    assert [point.name for point in run.method.points(nn.Identity(), run)] == ["random_reinit_1", "random_reinit_2"]
    run = walk(levels=2, arms=["one_shot"])
    assert list(run.began) == ["pretrain", "one_shot_1", "one_shot_2"]


def test_new_weights_as_rethinking_draws_them() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 28 * 28, 10))
    run = walk(net, levels=1, prune_ratio=0.7, arms=["random_reinit"], reinit="live", skip=["3"])
    weight = run.began["random_reinit_1"]["1.weight"]
    alive = weight[weight != 0]
    assert len(alive) == weight.numel() - int(0.7 * weight.numel())
    assert float(alive.std()) == pytest.approx(math.sqrt(2 * 64 / len(alive)), rel=0.05)


def test_gradients_and_steps_leave_the_dead_at_zero() -> None:
    run = walk(levels=1, prune_ratio=0.7)
    net, names = run.ended["ticket_1"].train(), run.method.masks.names
    pattern = [net.get_parameter(f"{name}.weight") != 0 for name in names]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()
        run.method.before_step(net, run.clock().at(step))
        for name, alive in zip(names, pattern, strict=True):
            gradient = net.get_parameter(f"{name}.weight").grad
            assert gradient is not None and not gradient[~alive].any() and gradient[alive].any()
        optimizer.step()
        run.method.after_step(net, run.clock().at(step))
    assert all(
        torch.equal(net.get_parameter(f"{name}.weight") != 0, alive) for name, alive in zip(names, pattern, strict=True)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio must be a number in \[0, 1\)"),
        ({"arms": []}, "method.arms must name at least one arm, and each once"),
        ({"arms": ["ticket", "ticket"]}, "method.arms must name at least one arm, and each once"),
        ({"arms": ["tickets"]}, "arms must be a list of one of ticket, one_shot"),
        ({"scope": "global", "output_ratio": 0.1}, "set method.conv_ratio and method.output_ratio to null"),
        ({"rule": "open_lth"}, "method.rule=open_lth is a rule for all layers together"),
        ({"rewind_epochs": 2}, "are step 4 of 4; rewind to an earlier one"),
        ({"layers": ["fc"]}, "method.layers: 'fc' matches no layer"),
        ({"skip": ["*"]}, "leaves no layer to prune"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        walk(**options)


def test_a_level_without_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schedule\.phases\.finetune\.epochs=0: lottery_ticket trains"):
        run(tmp_path, *LENET, "schedule=finetune", "schedule.phases.finetune.epochs=0")


def weights(folder: Path) -> dict[str, Tensor]:
    found = load_file(folder / "weights.safetensors")
    return {name: value for name, value in found.items() if name.startswith("net.")}


def test_a_level_that_takes_nothing_is_the_first_training_again(tmp_path: Path) -> None:
    result, folder = run(tmp_path, *LENET, "schedule=finetune", "method.prune_ratio=0")
    (dense,) = (tmp_path / "dense").rglob("weights.safetensors")
    first, again = weights(dense.parent), weights(folder / "phases" / "ticket_1")
    assert first.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in first.items())
    assert result["metrics"]["dense"]["nll"] == result["metrics"]["final"]["nll"]

    # without momentum the optimiser remembers nothing: from step k on, rate and order of the samples are the first ones
    plain = ("schedule.phases.pretrain.momentum=0", "schedule.phases.pretrain.epochs=3")
    later, folder = run(
        tmp_path, *LENET, *plain, "schedule=finetune", "method.prune_ratio=0", "method.rewind_epochs=1",
        "method.rewind_steps=4",
    )  # fmt: skip
    first, again = weights(folder / "phases" / "pretrain"), weights(folder / "phases" / "ticket_1")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    whole, _ = run(tmp_path, *LENET, *plain, "schedule=finetune", "method.prune_ratio=0")
    assert whole["metrics"]["dense"]["nll"] == later["metrics"]["dense"]["nll"]  # to watch is not to act


def test_a_run_through_the_levels(tmp_path: Path) -> None:
    words = (*LENET, "schedule.phases.finetune.rounds=2", "method.output_ratio=0.1", "method.rewind_steps=3")
    result, _ = run(tmp_path, *words, "method.arms=[ticket,random_reinit]")
    assert [point["name"] for point in result["points"]] == [
        "random_reinit_1", "ticket_1", "random_reinit_2", "ticket_2",
    ]  # fmt: skip
    assert result["points"][3]["metrics"]["nll"] == result["metrics"]["final"]["nll"]
    assert result["points"][3]["cost"]["nonzero_params"] == result["cost"]["final"]["nonzero_params"]
    kept = result["budget"]["kept_per_layer"]
    assert kept["fc1"] == pytest.approx(0.64, abs=1e-3) and kept["fc3"] == pytest.approx(0.81, abs=2e-3)
    assert result["status"] == "complete"
    again, _ = run(tmp_path, *words, "method.arms=[ticket,random_reinit]")
    assert again["points"] == result["points"]


def test_weights_from_elsewhere_have_no_beginning(tmp_path: Path) -> None:
    _, folder = run(
        tmp_path, *SHORT, "model=lenet300_100", "method=none", "schedule=simultaneous", "dataset.epochs.train=1"
    )
    file = next(folder.rglob("model/weights.safetensors"))
    with pytest.raises(UserError, match=r"model\.pretrained replaces that training"):
        run(tmp_path, *LENET, f"model.pretrained={file}")


def test_the_paper_s_training_is_the_recipe() -> None:
    config, _ = configure(Path("unused"), "method=lottery_ticket", "dataset=mnist")
    phases = config["schedule"]["phases"]
    assert (phases["pretrain"]["optimizer"], phases["pretrain"]["lr"], phases["pretrain"]["batch_size"]) == (
        "adam", 1.2e-3, 60,
    )  # fmt: skip
    assert phases["pretrain"]["epochs"] * math.ceil(55000 / 60) == pytest.approx(50_000, rel=0.01)
