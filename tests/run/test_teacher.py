"""Runs with a teacher: where it is heard, what it costs, which run it makes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prunebench
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.run import assemble
from prunebench.run.reevaluate import reevaluate
from prunebench.training.lit import Lit
from tests.kit import SHORT, configure, run

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
L1 = (*SHORT, *NET, "method=l1norm", "schedule=finetune")
IMAGE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def plain(outputs: Path) -> tuple[dict[str, Any], Path]:
    return run(outputs, *L1)


@pytest.fixture(scope="module")
def taught(outputs: Path, plain: Any) -> tuple[dict[str, Any], Path]:
    return run(outputs, *L1, "teacher=dense")


def history(folder: Path) -> list[dict[str, str]]:
    head, *lines = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]


def test_it_is_heard_after_the_pretraining_alone(plain: Any, taught: Any, outputs: Path) -> None:
    (own, folder), (other, other_folder) = taught, plain
    heard = {row["phase"] for row in history(folder) if row.get("train/distillation")}
    assert heard == {"finetune"}
    assert "train/distillation" not in history(other_folder)[0]
    # the pretraining is shared: no second dense net was trained
    assert len(list((outputs / "dense").rglob("phase.json"))) == 1
    assert own["metrics"]["dense"] == other["metrics"]["dense"]
    assert own["metrics"]["pruned"] == other["metrics"]["pruned"]
    assert own["metrics"]["final"]["nll"] != other["metrics"]["final"]["nll"]
    assert own["run"]["id"] != other["run"]["id"]
    assert own["teacher"]["weight"] == 0.9 and "teacher" not in other


def test_its_passes_are_training_and_no_part_of_the_net(plain: Any, taught: Any) -> None:
    (own, folder), (other, _) = taught, plain
    tuned, bare = own["phases"][1], other["phases"][1]
    passes = own["data"]["num_train"] * tuned["epochs"]
    assert tuned["teacher_macs"] == own["cost"]["dense"]["macs"] * passes
    assert tuned["train_macs"] == bare["train_macs"] + tuned["teacher_macs"]
    assert "teacher_macs" not in own["phases"][0]
    assert own["cost"]["final"]["macs"] == other["cost"]["final"]["macs"]
    assert own["cost"]["final"]["params"] == other["cost"]["final"]["params"]
    assert cost.count(prunebench.load(folder, trust=True), IMAGE).macs == own["cost"]["final"]["macs"]
    assert all(again.same for again in reevaluate(folder, trust=True))


@pytest.mark.parametrize(
    "command",
    [
        (*L1, "teacher=dense"),
        # an update of its own, and buffers in checkpoints
        (
            *SHORT,
            *NET,
            "method=lottery_ticket",
            "schedule=iterative",
            "schedule.phases.finetune.rounds=1",
            "teacher=dense",
        ),
    ],
    ids=["l1norm", "lottery_ticket"],
)
def test_an_interrupted_run_ends_with_the_same_numbers(
    command: tuple[str, ...], outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    straight, folder = run(outputs, *command)
    last = straight["phases"][-1]["name"]
    original = Lit.training_step

    def cut_power(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == last and self.current_epoch == 1 and batch_idx == 3:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", cut_power)
    with pytest.raises(PowerCut):
        run(tmp_path, *command)
    monkeypatch.setattr(Lit, "training_step", original)
    resumed, again = run(tmp_path, *command)
    assert resumed["metrics"] == straight["metrics"]
    left, right = (load_file(place / "model" / "weights.safetensors") for place in (folder, again))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_saved_net_counts_by_its_content(plain: Any, taught: Any, tmp_path: Path) -> None:
    alone = (*SHORT, *NET, "method=none", "schedule=simultaneous", "teacher=saved_net")

    def of(folder: Path) -> tuple[dict[str, Any], Path]:
        return run(tmp_path, *alone, f"teacher.folder={folder}")

    shutil.copytree(plain[1] / "model", tmp_path / "moved" / "model")
    first, folder = of(plain[1])
    assert first["phases"][0]["teacher_macs"] == plain[0]["cost"]["final"]["macs"] * first["data"]["num_train"] * 2
    assert str(plain[1]) not in str(first["teacher"])

    def run_id(folder: Path) -> str:
        config, _ = configure(tmp_path, *alone, f"teacher.folder={folder}")
        return prunebench.config.identity.digest(prunebench.config.identity.identity(assemble.identified(config)))

    assert run_id(tmp_path / "moved") == run_id(tmp_path / "moved" / "model") == first["run"]["id"]
    assert run_id(taught[1]) != first["run"]["id"]
    assert not [key for key in load_file(folder / "phases" / "train" / "weights.safetensors") if "teacher" in key]


def test_a_net_that_learns_alone_where_no_dense_net_is_trained(tmp_path: Path) -> None:
    command = (*SHORT, *NET, "method=none", "schedule=simultaneous")
    bare, _ = run(tmp_path / "bare", *command)
    alone, folder = run(tmp_path / "alone", *command, "teacher=dense_if_trained")
    assert alone["metrics"]["final"] == bare["metrics"]["final"]
    assert "teacher" not in alone and "train/distillation" not in history(folder)[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("schedule=simultaneous", "method=none"),
            "teacher=dense needs a trained dense net, and schedule=simultaneous",
        ),
        (("schedule=finetune", "method=slimming"), "trains none that the method leaves alone"),
        (("schedule=finetune", "method=none", "schedule.phases.pretrain.epochs=0"), "teacher=dense needs a trained"),
    ],
)
def test_a_run_without_a_dense_net_is_refused(command: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, *SHORT, *NET, *command, "teacher=dense")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("model=sru_tiny", "dataset=bytes"), "a teacher tells class probabilities, and dataset=bytes is for language"),
        (("model=regression_mlp", "dataset=simulation_one"), "simulation_one is for regression; leave teacher out"),
    ],
)
def test_only_classifiers_are_taught(command: tuple[str, ...], message: str, tmp_path: Path) -> None:
    config, _ = configure(tmp_path, *command, "method=none", "schedule=simultaneous", "teacher=dense")
    job, _ = assemble.build(config, tmp_path)
    with pytest.raises(UserError, match=message):
        job.check_teacher()


def test_a_saved_net_for_other_data_is_refused(plain: Any, tmp_path: Path) -> None:
    saved = ("teacher=saved_net", f"teacher.folder={plain[1]}", "method=none", "schedule=simultaneous")

    def refused(*more: str, message: str) -> None:
        config, _ = configure(tmp_path, *SHORT, *NET, *saved, *more)
        job, _ = assemble.build(config, tmp_path)
        with pytest.raises(UserError, match=message):
            job.check_teacher()

    refused(
        "dataset.mean=[0.5]", message=r"holds a net for other data: its mean is .* that of dataset=digits is \[0.5\]"
    )
    refused(f"teacher.folder={tmp_path / 'nothing'}", message="nothing is no folder; give the folder of a finished run")
    (tmp_path / "runs").mkdir()
    refused(f"teacher.folder={tmp_path / 'runs'}", message="holds no saved net")
