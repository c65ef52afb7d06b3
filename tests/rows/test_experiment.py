"""``experiment=<paper>-<row>``: options of a config group, made when they are asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from prunebench import rows
from prunebench.cli.main import main
from prunebench.cli.resolve import resolve
from prunebench.cli.sweeps import composable
from prunebench.errors import UserError
from prunebench.rows.experiment import config_node

ROOT = Path(__file__).resolve().parents[2]
NAME = "fpgm-t1_resnet56_only40"


def printed(*arguments: str) -> str:
    """What ``python -m prunebench … --cfg job --resolve`` prints."""
    command = [sys.executable, "-m", "prunebench", *arguments, "--cfg", "job", "--resolve"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_row_is_the_configuration() -> None:
    """FPGM's training of ResNet-56: 200 epochs at 0.1, a fifth after 60, 120 and 160; batches of 128."""
    config = rows.compose(rows.find(NAME))
    assert [config[group]["name"] for group in ("method", "model", "dataset", "schedule")] == [
        *("fpgm", "resnet56", "cifar10", "simultaneous")
    ]
    train = config["schedule"]["phases"]["train"]
    wanted = {"epochs": 200, "lr": 0.1, "gamma": 0.2, "nesterov": True, "weight_decay": 5e-4, "batch_size": 128}
    assert wanted.items() <= train.items()
    assert [milestone * train["epochs"] for milestone in train["milestones"]] == [60, 120, 160]
    assert config["method"]["prune_ratio"] == 0.4
    assert config["row"]["id"] == NAME
    assert config["row"]["reported"]["accuracy"] == 0.9293
    assert config["row"]["changed"] == []


def test_the_command_line_wins_and_is_remembered() -> None:
    given = ["method.prune_ratio=0.7", "schedule.phases.train.epochs=1", "seed=3", "trainer.num_threads=1"]
    config = rows.compose(rows.find(NAME), given)
    assert config["method"]["prune_ratio"] == 0.7
    assert config["schedule"]["phases"]["train"]["epochs"] == 1
    assert config["seed"] == 3
    # seed and placement do not make it another experiment
    assert config["row"]["changed"] == given[:2]


@pytest.mark.parametrize(
    ("name", "given", "changed"),
    [
        # trained from random weights: a checkpoint is another experiment
        (NAME, [], ["model.pretrained"]),
        # it takes the place of the pretraining
        ("fpgm-t1_resnet56_only40_pretrained", [], []),
        ("l1norm-t1_resnet56_a", ["+model.pretrained_sha256=null"], []),
        # ... but not with another schedule, which is a change by itself
        ("l1norm-t1_resnet56_a", ["schedule=simultaneous"], ["schedule=simultaneous", "model.pretrained"]),
        # the penalty acts in this pretraining, so that it would only start from the checkpoint
        ("slimming-t1a_vgg19_70", [], ["model.pretrained"]),
    ],
)
def test_a_checkpoint_is_neutral_only_where_it_replaces_a_pretraining(
    name: str, given: list[str], changed: list[str]
) -> None:
    config = rows.compose(rows.find(name), [*given, "model.pretrained=net.th"])
    found = [argument.removesuffix("=net.th") for argument in config["row"]["changed"]]
    assert found == changed
    resolved = resolve(OmegaConf.create(config))[0]
    assert len(resolved["row"]["changed"]) == len(changed)


def test_another_schedule_does_not_get_the_phases_of_the_row() -> None:
    config = rows.compose(rows.find(NAME), ["schedule=oneshot"])
    assert list(config["schedule"]["phases"]) == ["pretrain", "cut"]
    assert config["row"]["changed"] == ["schedule=oneshot"]


def test_another_method_keeps_the_ratio() -> None:
    config = rows.compose(rows.find(NAME), ["method=random"])
    assert (config["method"]["name"], config["method"]["prune_ratio"]) == ("random", 0.4)


def test_layer_names_with_dots_stay_whole() -> None:
    config = rows.compose(rows.find("l1norm-t1_resnet110_b"))
    table = config["method"]["prune_ratio"]
    # the first match wins, so the layers that stay whole come before the globs
    assert next(iter(table)) == "layer1.17.conv1"
    assert table["layer2.*.conv1"] == 0.4


def test_a_trained_net_before_soft_pruning() -> None:
    config = rows.compose(rows.find("soft_filter_pruning-t1_resnet56_40_pretrained"))
    phases = config["schedule"]["phases"]
    assert config["schedule"]["name"] == "simultaneous"
    assert list(phases) == ["pretrain", "finetune"]
    assert (phases["finetune"]["prune"], phases["finetune"]["active"]) == (False, True)
    assert phases["finetune"]["lr"] == pytest.approx(phases["pretrain"]["lr"] / 10)


def test_text_of_a_row_is_never_an_instruction() -> None:
    from dataclasses import replace

    row = replace(rows.find(NAME), setting="<b>${oc.env:HOME}</b>")
    node = OmegaConf.create({"row": config_node(row, [])["row"]})
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    assert found["row"]["setting"] == "<b>${oc.env:HOME}</b>"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("experiment=slimming-t1c_vgg19_60", "cannot run: the data set svhn is not built yet"),
        ("experiment=fpgm-t1_resnet20_sfp_30", "its own row is soft_filter_pruning-t1_resnet20_30"),
        ("experiment=fpgm-t1_resnet56_onl40", "is no row; did you mean fpgm-t1_resnet56_only40"),
        ("experiment=rethinking-t1_resnet56_a", "it has the arms rethinking-t1_resnet56_a-fine_tuned"),
        ("experiment=glob(slimming-t1c*)", "matches no row that runs; its 8 rows cannot run"),
        ("experiment=fpgm-t1_resnet56_only40,nonsense", "experiment=nonsense is no row"),
    ],
)
def test_rows_that_cannot_run(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows.register([argument])


def test_the_command_prints_the_reason(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prunebench"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["experiment=statistical_protocol-memo"]) == 1
    message = "error: experiment=statistical_protocol-memo cannot run: a protocol, it has no experiment\n"
    assert capsys.readouterr().err == message


def test_a_glob_makes_its_rows_options() -> None:
    from hydra.core.config_store import ConfigStore

    rows.register(["-m", "experiment=glob(fpgm-t1_resnet110_*)", "seed=0,1"])
    stored = ConfigStore.instance().list("experiment")
    wanted = ["fpgm-t1_resnet110_only40", "fpgm-t1_resnet110_mix40", "fpgm-t1_resnet110_only40_pretrained"]
    assert {f"{name}.yaml" for name in wanted} <= set(stored)
    assert "fpgm-t1_resnet110_mil.yaml" not in stored


def test_plain_runs_read_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "load", lambda *_, **__: pytest.fail("rows were read"))
    rows.register(["method=fpgm", "-m", "seed=0,1"])


def test_the_real_command() -> None:
    text = printed(f"experiment={NAME}", "method.prune_ratio=0.5")
    assert f"  id: {NAME}\n" in text
    assert "  prune_ratio: 0.5\n" in text


@pytest.mark.slow
def test_a_sweep_over_a_table(tmp_path: Path) -> None:
    """Every job of a glob is composed; without data each ends in its error, and the sweep goes on."""
    command = [sys.executable, "-m", "prunebench", "-m", "experiment=glob(fpgm-t1_resnet20_only*)"]
    options = [f"paths.data={tmp_path}", f"paths.outputs={tmp_path}"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    jobs = re.findall(r"^\d: (experiment=\S+)", done.stdout, re.MULTILINE)
    assert jobs == ["experiment=fpgm-t1_resnet20_only30", "experiment=fpgm-t1_resnet20_only40"], done.stdout


def test_a_sweep_over_rows_may_change_their_phases() -> None:
    """Hydra composes a sweep without its rows first, where the phases of a row do not exist."""
    given = [
        "-m",
        "experiment=a,b",
        "schedule.phases.train.epochs=2",
        "dataset.mean=[0.5]",
        "seed=0,1",
        "hydra/launcher=x",
    ]
    assert composable(given) == [
        *("-m", "experiment=a,b", "schedule.phases.train.epochs=choice(2)", "dataset.mean=choice([0.5])", "seed=0,1"),
        "hydra/launcher=x",
    ]
    assert composable(given[1:]) == given[1:]
    assert composable(["-m", "method.prune_ratio=0.5"]) == ["-m", "method.prune_ratio=0.5"]
    assert composable(["-m", "experiment=a", "method.prune_ratio=0.1,0.2"])[-1] == "method.prune_ratio=0.1,0.2"
