"""The dense net's own numbers: its zeros, and what a checkpoint may have seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.kit import SHORT, run

SMALL = (*SHORT, "model=lenet300_100", "dataset.validation=144")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of LeNet-300-100 of which 100 are 0."""
    folder = tmp_path_factory.mktemp("first")
    _, made = run(folder, *SMALL, "method=none", "schedule=simultaneous", "schedule.phases.train.epochs=1")
    weights = load_file(made / "model" / "weights.safetensors")
    weights["fc1.weight"].view(-1)[:100] = 0.0
    save_file(weights, folder / "net.safetensors")
    return folder / "net.safetensors"


def count(weights: dict[str, torch.Tensor]) -> int:
    return sum(int((value != 0).sum()) for value in weights.values())


def test_zeros_are_counted_on_the_net_that_was_measured(checkpoint: Path, tmp_path: Path) -> None:
    result, _ = run(tmp_path, *SMALL, "schedule=oneshot", f"model.pretrained={checkpoint}")
    dense: dict[str, Any] = result["cost"]["dense"]
    assert dense["nonzero_params"] == count(load_file(checkpoint)) <= dense["params"] - 100
    assert result["warnings"] == []  # nothing was chosen on validation


def test_without_a_measured_dense_net_all_parameters_count(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *SMALL, "method=none", "schedule=simultaneous")
    assert "dense" not in result["metrics"]
    assert result["cost"]["dense"]["nonzero_params"] == result["cost"]["dense"]["params"]


def test_a_checkpoint_may_have_seen_the_validation_samples(checkpoint: Path, tmp_path: Path) -> None:
    result, _ = run(tmp_path, *SMALL, f"model.pretrained={checkpoint}")
    assert any("the 144 samples that are held out" in sentence for sentence in result["warnings"])
    assert result["metrics"]["test_best_val"]["chosen_on_seen_samples"] is True
    result, _ = run(tmp_path, *SMALL, f"model.pretrained={checkpoint}", "dataset.validation=0")
    assert result["warnings"] == [] and "test_best_val" not in result["metrics"]


def test_what_was_asked_is_said_loudly_where_it_was_not_achieved(checkpoint: Path, tmp_path: Path) -> None:
    words = (*SMALL, "schedule=oneshot", f"model.pretrained={checkpoint}", "method.round_to=100000")
    result, folder = run(tmp_path, *words)
    assert result["budget"]["channels_asked"] == pytest.approx(0.6) and result["budget"]["channels_kept"] == 1.0
    assert any("40.00% asked, 0.00% achieved" in sentence for sentence in result["warnings"])
    assert any("layers cut: 0 of 2" in sentence for sentence in result["warnings"])
    assert "warning: channels removed: 40.00% asked" in (folder / "log.txt").read_text()
