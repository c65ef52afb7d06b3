"""Which settings make another run, and where it lies."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from prunebench.config.identity import dense_folder, identity, run_folder, slug
from prunebench.disk.seal import file_sha256


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {
        "method": {"name": "fpgm", "prune_ratio": 0.4},
        "model": {"name": "resnet20", "pretrained": None, "shortcut": "A"},
        "dataset": {"name": "digits", "batch_size": 64, "epochs": {"train": 3}},
        "schedule": {"name": "finetune", "phases": {}},
        "trainer": {"precision": "32-true", "devices": 1, "num_threads": 2},
        "logger": {"name": "csv"},
        "paths": {"data": "/a", "outputs": str(tmp_path)},
        "seed": 0,
        "row": None,
    }


def changed(config: dict[str, Any], group: str, **values: Any) -> dict[str, Any]:
    other = copy.deepcopy(config)
    other[group] = {**other[group], **values}
    return other


def test_placement_paths_and_logger_do_not_make_another_run(config: dict[str, Any]) -> None:
    for group, values in (
        ("trainer", {"accelerator": "gpu", "num_threads": 8}),
        ("paths", {"data": "/b"}),
        ("logger", {"name": "wandb"}),
    ):
        assert run_folder(changed(config, group, **values)) == run_folder(config)


def test_settings_make_another_run(config: dict[str, Any]) -> None:
    others = [
        changed(config, "method", prune_ratio=0.5),
        changed(config, "trainer", precision="bf16-mixed"),
        changed(config, "trainer", devices=2),
        changed(config, "dataset", batch_size=32),
        {**config, "seed": 1},
    ]
    folders = {run_folder(config), *map(run_folder, others)}
    assert len(folders) == 6
    assert run_folder({**config, "seed": 1}).parent == run_folder(config).parent


def test_an_option_that_is_off_does_not_rename_a_run(config: dict[str, Any]) -> None:
    assert run_folder(changed(config, "method", new_option=None)) == run_folder(config)
    assert run_folder(changed(config, "method", new_option=0)) != run_folder(config)


def test_a_method_that_is_called_a_control_is_the_same_run(config: dict[str, Any]) -> None:
    assert run_folder(changed(config, "method", control="magnitude")) == run_folder(config)
    assert "control" not in identity(changed(config, "method", control="magnitude"))["method"]


def test_a_checkpoint_counts_by_content_not_by_place(config: dict[str, Any], tmp_path: Path) -> None:
    one, two = tmp_path / "one.th", tmp_path / "two.th"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    first = identity(changed(config, "model", pretrained=str(one)))
    assert first == identity(changed(config, "model", pretrained=str(two), pretrained_sha256=file_sha256(two)))
    two.write_bytes(b"other")
    assert first != identity(changed(config, "model", pretrained=str(two)))


def test_a_run_folder_counts_by_the_net_in_it_not_by_its_place(config: dict[str, Any], tmp_path: Path) -> None:
    def saved(name: str, weights: bytes) -> str:
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
        (folder / "weights.safetensors").write_bytes(weights)
        return str(folder.parent)

    def run_id(option: str, folder: str) -> Path:
        return run_folder(changed(config, "method", run_folders=["source"], **{option: folder}))

    one, moved, other = saved("one", b"same"), saved("two", b"same"), saved("three", b"other")
    assert run_id("source", one) == run_id("source", moved) != run_id("source", other)
    assert run_id("text", one) != run_id("text", moved)  # not declared to be a folder
    # what the list says is no setting of the run, and a folder without a net is its name
    assert run_folder(changed(config, "method", run_folders=["source"])) == run_folder(config)
    assert run_id("source", "/nowhere") != run_id("source", "/elsewhere")


def test_a_run_folder_counts_by_what_its_weights_mean(config: dict[str, Any], tmp_path: Path) -> None:
    def saved(name: str, **settings: Any) -> str:
        folder = tmp_path / name
        (folder / "phases" / "train").mkdir(parents=True)
        (folder / "phases" / "train" / "weights.safetensors").write_bytes(b"same")
        (folder / "result.json").write_text(json.dumps({"method": {"settings": settings}}))
        return str(folder)

    def run_id(folder: str) -> Path:
        return run_folder(changed(config, "method", run_folders=["source"], source=folder))

    one, moved, other = saved("one", scale=0.5), saved("two", scale=0.5), saved("three", scale=1.0)
    assert run_id(one) == run_id(moved) != run_id(other)
    # where that run began is a place, too
    first, second = (saved(place, run_folders=["from"], **{"from": place}) for place in ("four", "five"))
    assert run_id(first) == run_id(second)
    (tmp_path / "two" / "result.json").write_text("[1]")  # is refused by who reads it, and is no other error here
    assert run_id(moved) != run_id(one)


def test_runs_that_differ_in_the_method_share_the_dense_net(config: dict[str, Any]) -> None:
    phase = {"epochs": 3, "lr": 0.1}
    other = changed(config, "method", name="l1norm", prune_ratio=0.2)
    assert dense_folder(config, phase) == dense_folder(other, phase)
    assert dense_folder(config, phase) != dense_folder(config, {**phase, "lr": 0.2})
    assert dense_folder(config, phase) != dense_folder(changed(config, "model", shortcut="B"), phase)


def test_names_cannot_leave_the_folder() -> None:
    assert slug("../../etc/passwd") == "etc_passwd"
    assert slug("<script>alert(1)</script>") == "script_alert_1_script"
    assert slug("...") == "unnamed"


def test_checksum_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
