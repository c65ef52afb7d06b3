"""Curves beside ``metrics.csv``: each phase has its own, and no logger can fail a run."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Iterator
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
    pytest.importorskip("tensorboard", reason="the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, folder = run(tmp_path / "board", *RUN, "logger=tensorboard")
    assert phases_of(folder) == PHASES
    for phase in PHASES:
        curves = EventAccumulator(str(folder / "tensorboard" / phase)).Reload()
        assert len(curves.Scalars("val/accuracy")) == 1
        [record] = [found for found in result["phases"] if found["name"] == phase]
        assert [point.value for point in curves.Scalars("lr")] == pytest.approx(record["lr"])
    end = EventAccumulator(str(folder / "tensorboard" / loggers.RESULT)).Reload()
    for name, value in (
        ("metrics.final.accuracy", result["metrics"]["final"]["accuracy"]),
        ("cost.final.macs", result["cost"]["final"]["macs"]),
    ):
        assert end.Scalars(name)[-1].value == pytest.approx(value)
    assert set(end.Tags()["images"]) == {"training", "reliability", "kept channels"}
    [text] = end.Tensors("configuration/text_summary")
    assert b"method.prune_ratio: 0.4" in text.tensor_proto.string_val[0]


def test_wandb_has_one_run_grouped_by_the_configuration(tmp_path: Path) -> None:
    import wandb

    records = {}
    for seed in (0, 1):
        result, folder = run(tmp_path, *RUN, "logger=wandb", f"seed={seed}")
        assert phases_of(folder) == PHASES
        assert wandb.run is None
        [place] = (folder / "wandb").glob("offline-run-*")
        records[seed] = scan(place)
        found = records[seed]
        assert found["config"]["method.prune_ratio"] == 0.4
        assert found["summary"]["metrics.final.accuracy"] == pytest.approx(result["metrics"]["final"]["accuracy"])
        assert found["summary"]["cost.final.macs"] == result["cost"]["final"]["macs"]
        assert {f"{phase}/{name}" for phase in PHASES for name in ("val/accuracy", "lr")} <= found["names"]
        assert len(list(place.glob("files/media/images/*.png"))) == 3
    assert records[0]["group"] == records[1]["group"] and records[0]["id"] != records[1]["id"]


def scan(place: Path) -> dict[str, Any]:
    """What an offline run of W&B has written."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    [path] = place.glob("*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "names": set()}
    for data in records_of(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.run.run_id:
            found["id"], found["group"] = record.run.run_id, record.run.run_group
        for updates in (record.run.config.update, record.config.update):
            found["config"] |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
        found["summary"] |= {
            item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
        }
        found["names"] |= {item.key or "/".join(item.nested_key) for item in record.history.item}
    return found


def records_of(data: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """The records of a LevelDB log behind a header of 7 bytes: checksum (4), length (2), kind (1), part of a record."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:  # too short for a header: filled with zeros
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts = (parts if kind in (3, 4) else b"") + data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts


def test_a_run_without_training_has_its_end_in_the_logger(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard")
    _, folder = run(tmp_path, *RUN, "schedule=oneshot", "logger=tensorboard")
    assert (folder / "tensorboard" / loggers.RESULT).is_dir()


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
    end = pytest.warns(UserWarning, match="the logger stopped .*; the run is complete")
    with end, pytest.warns(UserWarning, match="the logger stopped .the disk is full.; the run goes on"):
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
