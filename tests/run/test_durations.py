"""What a run says of its length: of its data in an epoch, of its time over all sessions."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.cli import closing
from prunebench.core.result import in_sessions
from prunebench.training.lit import Lit
from tests.run.kit import PowerCut, go_on


def test_a_share_of_an_epoch_is_told_in_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As many as the training steps of the first epoch are given."""
    original, given = Lit.training_step, {"pretrain": 0, "finetune": 0}

    def step(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        given[self.phase.name] += len(batch[0]) * (self.current_epoch == 0)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", step)
    words = ("schedule.phases.pretrain.epoch_share=0.5", "schedule.phases.pretrain.batch_size=50")
    with caplog.at_level(logging.INFO, logger="prunebench"):
        _, folder = go_on(tmp_path, *words)
    assert 0 < given["pretrain"] < given["finetune"] == 437
    said = re.findall(r"phase (\w+): 2 epochs on (.*)", (folder / "log.txt").read_text())
    assert said == [("pretrain", f"{given['pretrain']} of 437 images"), ("finetune", "437 images")]


def test_the_duration_is_that_of_all_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, wait = Lit.training_step, 1.5

    def step(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == "finetune" and self.current_epoch == 1 and batch_idx == 3:
            time.sleep(wait)
            raise PowerCut
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Lit, "training_step", step)
        begun = time.perf_counter()
        with pytest.raises(PowerCut):
            go_on(tmp_path)
    interrupted = time.perf_counter() - begun
    begun = time.perf_counter()
    result, _ = go_on(tmp_path)
    second = time.perf_counter() - begun
    assert result["run"]["sessions"] == 2
    assert wait < result["run"]["seconds"] < interrupted + second
    phase = next(phase for phase in result["phases"] if phase["name"] == "finetune")
    assert phase["wall_seconds"] > wait and phase["wall_seconds"] > phase["seconds"]
    closing.show(result)
    assert re.search(r"status complete, \d+ s\s+in\s+2\s+sessions", capsys.readouterr().out)
    assert in_sessions({"seconds": 3.0}) == "" == in_sessions({"sessions": 1})
