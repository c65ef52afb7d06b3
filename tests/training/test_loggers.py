"""Curves beside ``metrics.csv``: each phase has its own, and no logger can fail a run."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

from prunebench.training import loggers
from prunebench.training.loggers import Guarded, build_loggers
from tests.kit import SHORT, run

RUN = (*SHORT, "model=lenet300_100", "dataset.epochs.train=1", "dataset.epochs.finetune=1")
PHASES = ["pretrain", "finetune"]


def phases_of(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row["phase"] for row in csv.DictReader(file)]


def test_csv_and_tensorboard_keep_the_phases_apart(tmp_path: Path) -> None:
    _, folder = run(tmp_path, *RUN)
    assert phases_of(folder) == PHASES
    pytest.importorskip("tensorboard", reason="the extra dev has tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = run(tmp_path / "board", *RUN, "logger=tensorboard")
    assert phases_of(folder) == PHASES
    for phase in PHASES:
        curves = EventAccumulator(str(folder / "tensorboard" / phase)).Reload()
        assert len(curves.Scalars("val/accuracy")) == 1


def test_wandb_has_a_run_for_each_phase(tmp_path: Path) -> None:
    import wandb

    _, folder = run(tmp_path, *RUN, "logger=wandb")
    assert phases_of(folder) == PHASES
    assert wandb.run is None
    assert len(list((folder / "wandb").glob("offline-run-*"))) == len(PHASES)


class Broken(Logger):
    """A logger whose calls fail, and that cannot be sent to another process."""

    name, version = "broken", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        raise OSError("the disk is full")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError

    def __reduce__(self) -> Any:
        raise TypeError("cannot be sent")


def test_a_logger_that_fails_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "TensorBoardLogger", lambda *_, **__: Broken())
    with pytest.warns(UserWarning, match="the logger stopped .the disk is full.; the run goes on"):
        result, folder = run(tmp_path, *RUN, "logger=tensorboard")
    assert result["status"] == "complete"
    assert phases_of(folder) == PHASES


def test_a_logger_that_cannot_start_or_travel_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    with pytest.warns(UserWarning, match="cannot be sent"):
        assert pickle.loads(pickle.dumps(Guarded(Broken())))._inner is None
    monkeypatch.setattr(loggers, "WandbLogger", refuse)
    settings = {"name": "wandb", "project": "p", "online": False}
    with pytest.warns(UserWarning, match="could not start .no network."):
        assert build_loggers(settings, folder=tmp_path, run="r", phase="p") == []
