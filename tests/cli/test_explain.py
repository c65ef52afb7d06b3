"""``--help method=...``: every key that can be set, the schedules that the class takes, the paper and its rows."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from prunebench.cli.explain import explain, explain_key
from prunebench.cli.main import main
from prunebench.cli.mistakes import known_keys
from prunebench.config.groups import options
from prunebench.rows import find
from tests.kit import configure

UNSET = ("name", "_target_", "recipe", "acts", "control", "run_folders", "schedules", "phases")


@pytest.mark.parametrize("name", ["fpgm", "soft_filter_pruning", "bbb", "fsm", "none", "swag"])
def test_every_key_is_there_with_its_default(name: str, tmp_path: Path) -> None:
    text = explain("method", name)
    shown = dict(re.findall(r"^  method\.([\w.]+)=?(.*)$", text, re.MULTILINE))
    known = [key.removeprefix("method.") for key in known_keys([f"method={name}"]) if key.startswith("method.")]
    wanted = {key for key in known if not set(key.split(".")) & set(UNSET)}
    missing = {key for key in wanted if not any(key == other or key.startswith(f"{other}.") for other in shown)}
    assert not missing
    config = configure(tmp_path, f"method={name}")[0]["method"]
    for key in set(shown) & set(config):
        if isinstance(config[key], int | float) and not isinstance(config[key], bool):
            assert float(shown[key]) == config[key], key


@pytest.mark.parametrize("name", ["fpgm", "soft_filter_pruning", "bbb", "fsm"])
def test_the_schedules_are_those_that_the_method_takes(name: str, tmp_path: Path) -> None:
    config = configure(tmp_path, f"method={name}")[0]["method"]
    module, _, kind = config["_target_"].rpartition(".")
    taken = set(config.get("schedules") or getattr(importlib.import_module(module), kind).schedules)
    said = explain("method", name).partition("Schedules:")[2].partition("Keys")[0]
    assert {word for word in options("schedule") if re.search(rf"\b{word}\b", said)} == taken


def test_the_rows_are_of_the_method() -> None:
    text = explain("method", "fpgm")
    assert "https://arxiv.org/abs/1811.00250" in text
    names = re.findall(r"experiment=(\S+)", text)
    assert names and all((find(name).overrides or {}).get("method") == "fpgm" for name in names)


def test_an_option_that_does_not_exist_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "method=fpg"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: method has no option 'fpg'; did you mean fpgm")
    assert main(["--help", "model=resnet20", "schedule=oneshot"]) == 0
    said = capsys.readouterr()
    assert "model.width=16" in said.out and "schedule=oneshot" in said.out


def test_a_group_and_a_key_are_explained_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "schedule"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in options("schedule")) and "method=" not in said
    assert main(["--help", "seed=3", "method.grad_mask"]) == 0
    said = capsys.readouterr().out
    assert "\nmethod.grad_mask=true\n" in f"\n{said}" and said.endswith("    of fpgm\n")
    assert "paper's pseudo-code" in said and "method.prune_ratio" not in said


def test_a_key_of_the_whole_run_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "seed", "latency"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seed=0\n    whole number") and "\nlatency=true\n    measure the latency" in said


def test_every_setting_of_a_phase_is_named_with_its_default(tmp_path: Path) -> None:
    text = explain("schedule", "finetune")
    phases = configure(tmp_path, "method=none", "recipe=common")[0]["schedule"]["phases"]
    told = {*re.findall(r"schedule\.phases\.<name>\.(\w+)=", text), "name", "prune", "pretrain", "active"}
    assert set(phases["finetune"]) <= told and "lr=0.1 (pretrain), 0.01 (finetune)" in text
    assert explain_key("schedule", "phases.finetune.lr").startswith("schedule.phases.finetune.lr=0.01\n")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fpgm", "fpgm is none; did you mean method=fpgm?"),
        ("mehtod", "mehtod is none; did you mean method"),
        ("target_macs", "target_macs is none; did you mean method.target_macs?"),
        ("label_smoothing", "did you mean schedule.phases.<phase>.label_smoothing?"),
        ("method.grad_msk", "no option of method has the key grad_msk; did you mean grad_mask"),
    ],
)
def test_a_word_that_means_nothing_is_one_sentence(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", word]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and said in printed.err


def test_a_comment_is_no_default() -> None:
    assert not re.search(r"=#", "".join(explain("schedule", name) for name in options("schedule")))
