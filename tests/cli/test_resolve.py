"""What a configuration becomes before anything is built: names and places that its user left open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import configure


def test_a_net_of_ones_own_has_the_name_of_its_target(tmp_path: Path) -> None:
    own = ("model=custom", "model._target_=tests.small_nets.small_resnet")
    assert configure(tmp_path, *own)[0]["model"]["name"] == "small_resnet"
    assert configure(tmp_path, *own, "model.name=mine")[0]["model"]["name"] == "mine"
    assert configure(tmp_path, "model=resnet20")[0]["model"]["name"] == "resnet20"


def test_the_folder_of_a_run_stands_for_its_saved_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "run" / "seed_0" / "model" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.chdir(tmp_path)
    for given in ("run/seed_0", str(tmp_path / "run" / "seed_0"), str(weights)):
        assert configure(tmp_path, f"model.pretrained={given}")[0]["model"]["pretrained"] == str(weights)
    assert configure(tmp_path, "model.pretrained=./run")[0]["model"]["pretrained"] == str(tmp_path / "run")


def test_the_folder_of_a_shared_dense_net_stands_for_its_weights(tmp_path: Path) -> None:
    weights = tmp_path / "dense" / "net-digits" / "0123" / "seed_0" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert configure(tmp_path, f"model.pretrained={weights.parent}")[0]["model"]["pretrained"] == str(weights)
