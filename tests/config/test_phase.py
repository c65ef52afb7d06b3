"""The learning rate at each step, the unrolled rounds, the refusals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.config.phase import Phase, build_phases, lr_factor, plateau_factor
from prunebench.core.clock import Clock
from prunebench.core.method import Method
from prunebench.errors import UserError
from prunebench.training.optimizers import build_optimizer
from tests.kit import SHORT, run


def phase(**settings: Any) -> Phase:
    return Phase(**{"name": "train", "epochs": 160, "lr": 0.1, **settings})


def test_multistep_drops_at_the_papers_epochs() -> None:
    # Rethinking, CIFAR: 0.1, divided by 10 at 80 and 120 of 160 epochs
    drops = phase(lr_schedule="multistep", milestones=[0.5, 0.75])
    rates = [0.1 * lr_factor(drops, epoch * 10, 10) for epoch in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_odd_budgets_truncate_the_milestones() -> None:
    # Rethinking: E_B = 243 drops at int(121.5) = 121 and int(182.25) = 182
    drops = phase(epochs=243, lr_schedule="multistep", milestones=[0.5, 0.75])
    assert [lr_factor(drops, epoch, 1) for epoch in (120, 121, 181, 182)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_step_and_constant() -> None:
    # ImageNet: a tenth every 30 epochs
    rates = [lr_factor(phase(epochs=90, lr_schedule="step", step_epochs=30), epoch, 1) for epoch in (29, 30, 60, 89)]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.01])
    assert lr_factor(phase(lr_schedule="constant"), 1599, 10) == 1


def test_linear_is_swags_schedule() -> None:
    # SWAG, CIFAR: lr 0.05 falls to 0.01 from half to nine tenths of the 161 epochs before the first collection
    swa = phase(epochs=300, lr=0.05, lr_schedule="linear", milestones=[0.5 * 161 / 300, 0.9 * 161 / 300], gamma=0.2)
    rates = [0.05 * lr_factor(swa, epoch * 10 + 9, 10) for epoch in (0, 80, 81, 100, 120, 144, 145, 299)]
    assert rates == pytest.approx([0.05, 0.05, 0.049689, 0.037888, 0.025466, 0.010559, 0.01, 0.01], abs=5e-7)
    # its SGD baseline falls to a hundredth
    sgd = phase(epochs=300, lr=0.05, lr_schedule="linear", milestones=[0.5, 0.9], gamma=0.01)
    rates = [0.05 * lr_factor(sgd, epoch, 1) for epoch in (150, 151, 200, 269, 270, 299)]
    assert rates == pytest.approx([0.05, 0.049588, 0.029375, 0.000913, 0.0005, 0.0005], abs=6e-7)


def test_linear_may_fall_to_the_very_end() -> None:
    # Molchanov et al., nets/optpolicy.py: constant for 100 epochs, then to 0 at 200; or falling from the start
    half = phase(epochs=200, lr_schedule="linear", milestones=[0.5, 1], gamma=0)
    assert [lr_factor(half, epoch, 1) for epoch in (0, 100, 150, 199)] == pytest.approx([1, 1, 0.5, 0.01])
    whole = phase(epochs=200, lr_schedule="linear", milestones=[0, 1], gamma=0)
    assert [lr_factor(whole, epoch, 1) for epoch in (0, 100, 199)] == pytest.approx([1, 0.5, 0.005])


def test_warm_up_rises_linearly_then_hands_over() -> None:
    warm = phase(lr_schedule="constant", warmup_epochs=1, warmup_factor=0.1)
    assert [lr_factor(warm, step, 10) for step in (0, 5, 10)] == pytest.approx([0.1, 0.55, 1.0])


def test_cosine_agrees_with_torch() -> None:
    settings = phase(epochs=5, lr_schedule="cosine")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert lr_factor(settings, step, 10) == pytest.approx(peer.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        peer.step()


def test_noam_is_the_rule_of_the_transformer() -> None:
    # FLOP's script: lr x n_d^-0.5 x min(k^-0.5, k w^-1.5) with lr 2, n_d 3056, w 16000
    peak = 2 * 3056**-0.5 * 16000**-0.5
    noam = phase(epochs=20, lr=peak, lr_schedule="noam", warmup_epochs=2.0)
    rates = {k: noam.lr * lr_factor(noam, k - 1, 8000) for k in (1, 16000, 64000)}
    assert rates == pytest.approx({1: 1.78761e-8, 16000: 2.86018e-4, 64000: 1.43009e-4}, rel=1e-4)


def test_onecycle_peaks_once_at_the_full_rate_and_ends_near_zero() -> None:
    cycle = phase(epochs=4, lr_schedule="onecycle", onecycle_rise=0.25)
    rates = [lr_factor(cycle, step, 100) for step in range(400)]
    assert max(rates) == rates[99] == 1
    assert rates[:100] == sorted(rates[:100]) and rates[99:] == sorted(rates[99:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_scratch_b_epochs_of_rethinking() -> None:
    # VGG-16-A: 313,463,808 / 206,279,680 MACs, 160 -> 243 epochs; ResNet-56-B -> 220; the cap is ImageNet's
    assert phase(equal_compute=True).stretched(313_463_808, 206_279_680).epochs == 243
    assert phase(equal_compute=True).stretched(125_485_696, 90_907_264).epochs == 220
    assert phase(epochs=90, max_stretch=2.0).stretched(4, 1).epochs == 180
    assert phase().stretched(7, 7).epochs == 160


def test_rounds_are_unrolled_into_phases_with_growing_fractions() -> None:
    phases = build_phases({"pretrain": {"epochs": 1, "lr": 0.1}, "tune": {"epochs": 2, "lr": 0.01, "rounds": 4}})
    assert [p.name for p in phases] == ["pretrain", "tune_1", "tune_2", "tune_3", "tune_4"]
    assert [p.fraction for p in phases[1:]] == [0.25, 0.5, 0.75, 1.0]


def test_the_last_round_may_train_without_the_method() -> None:
    tune = {"epochs": 2, "lr": 0.01, "rounds": 3, "active": True}
    assert [p.active for p in build_phases({"tune": tune})] == [True, True, True]
    assert [p.active for p in build_phases({"tune": {**tune, "active_last": False}})] == [True, True, False]
    assert not build_phases({"tune": {**tune, "rounds": 1, "active_last": False}})[0].active


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": -1}, "epochs must be a whole number"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be a number in \[0, 1\]"),
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"lr_schedule": "cosin"}, "did you mean cosine"),
        ({"milestones": [80, 120]}, "fractions"),
        ({"lr_schedule": "linear", "milestones": [0.5]}, "two milestones"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": "big"}, "clip_norm must be a number above 0 or null, got 'big'"),
        ({"batch_size": "many"}, "batch_size must be a whole number of at least 1 or null, got 'many'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1 or null, got 2.5"),
        ({"label_smoothing": "x"}, r"label_smoothing must be a number in \[0, 1\], got 'x'"),
        ({"epoch_share": "half"}, r"epoch_share must be a number in \(0, 1\] or null, got 'half'"),
        ({"milestones": 0.5}, r"milestones must be a list of numbers in \[0, 1\] .*, got 0.5"),
        ({"milestones": ["a"]}, "milestones must be a list of numbers"),
        ({"nesterov": "maybe"}, "nesterov must be true or false, got 'maybe'"),
        ({"nesterov": True, "momentum": 0}, "nesterov=true needs a momentum above 0"),
        ({"lr": math.inf}, "lr must be a number of at least 0, got inf"),
        ({"lr": None}, "lr must be a number of at least 0, got None"),
        ({"weight_decay": None}, "weight_decay must be a number of at least 0, got None"),
    ],
)
def test_bad_settings_are_refused_with_the_value_and_what_is_allowed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_phases({"train": {"epochs": 1, "lr": 0.1, **settings}})


@pytest.mark.parametrize("broken", [None, {"train": None}])
def test_phases_are_tables(broken: Any) -> None:
    with pytest.raises(UserError, match=r"schedule\.phases.* must be a table"):
        build_phases(broken)


def test_group_settings_win_over_the_phase() -> None:
    weight, gate = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [gate], "weight_decay": 0.0, "maximize": True}]
    optimizer = build_optimizer(phase(weight_decay=0.1), groups)
    gate.grad = torch.ones(2)
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert gate.tolist() == pytest.approx([1.1, 1.1])  # climbs, no decay
    assert weight.tolist() == pytest.approx([1 - 0.1 * 0.1] * 2)  # decay alone
    assert math.isclose(optimizer.param_groups[0]["momentum"], 0.9)


def test_a_shortened_epoch_is_a_whole_epoch_to_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """437 digits in batches of 64 are 7 steps; half of them are 3."""
    seen: list[str] = []

    def after_step(self: Method, net: torch.nn.Module, clock: Clock) -> None:
        seen.append(f"step {clock.step} of {clock.num_steps}")

    monkeypatch.setattr(Method, "after_step", after_step)
    monkeypatch.setattr(Method, "end_epoch", lambda self, net, clock: seen.append(f"end of {clock.epoch}"))
    train = "schedule.phases.train"
    settings = (*SHORT, "method=none", "model=lenet300_100", "schedule=simultaneous")
    result, _ = run(tmp_path, *settings, f"{train}.epoch_share=0.5")
    steps = [f"step {i} of 6" for i in range(6)]
    assert seen == [*steps[:3], "end of 0", *steps[3:], "end of 1"]
    (record,) = result["phases"]
    assert record["train_macs"] == 3 * result["cost"]["dense"]["macs"] * 437
    with pytest.raises(UserError, match=r"train\.epoch_share=0\.1 leaves no whole batch"):
        run(tmp_path, *settings, f"{train}.epoch_share=0.1")
    with pytest.raises(UserError, match=r"epoch_share must be a number in \(0, 1\] or null, got 1.5"):
        phase(epoch_share=1.5)


@pytest.mark.parametrize("name", ["../../../x", "/x", "a/b", "", ".", "..", "_x", "a b", "ä", "x" * 61, "a\nb"])
def test_a_name_is_a_folder_and_no_path(name: str) -> None:
    with pytest.raises(UserError, match="a phase's name is a folder"):
        build_phases({"train": {"name": name, "epochs": 1, "lr": 0.1}})


def test_two_phases_have_two_names() -> None:
    one = {"epochs": 1, "lr": 0.1}
    with pytest.raises(UserError, match="two phases are called tune_1"):
        build_phases({"tune": {**one, "rounds": 2}, "other": {**one, "name": "tune_1"}})


def test_null_is_off_or_refused_and_never_the_default_of_the_class() -> None:
    for option in dataclasses.fields(Phase):
        if option.default is None or option.default is dataclasses.MISSING:
            continue
        where = f"schedule.phases.train.{option.name}"
        with pytest.raises(UserError, match=rf"{where} must be .*, got None"):
            build_phases({"train": {"epochs": 1, "lr": 0.1, option.name: None}})


def test_plateau_is_the_rule_of_torch() -> None:
    plateau = phase(lr=5e-5, lr_schedule="plateau", gamma=0.95, step_epochs=3)
    torch.manual_seed(0)
    losses = (1 / (1 + torch.arange(400) / 20) + 0.05 * torch.randn(400)).tolist()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.95, patience=3)
    for epoch, loss in enumerate(losses):
        theirs.step(loss)
        ours = 5e-5 * plateau_factor(plateau, losses[: epoch + 1])
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert optimizer.param_groups[0]["lr"] < 1e-5


def test_plateau_waits_for_more_epochs_than_its_patience() -> None:
    plateau = phase(lr_schedule="plateau", gamma=0.5, step_epochs=2)
    # the best is 0.9; 0.89995 is less than a ten-thousandth better; two bad epochs are borne, the third is not
    factors = [plateau_factor(plateau, [1.0, 0.9, 0.95, 0.89995, 0.9, 0.95, 0.95, 0.95][:n]) for n in range(9)]
    assert factors == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_plateau_needs_a_validation_split(tmp_path: Path) -> None:
    words = ("method=none", "schedule=simultaneous", "model=mlp_2x400", "schedule.phases.train.lr_schedule=plateau")
    with pytest.raises(UserError, match=r"lr_schedule=plateau follows the NLL on the validation split, and digits has"):
        run(tmp_path, *SHORT, *words, "dataset.validation=0")
