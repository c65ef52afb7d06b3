"""Sweeps whose jobs have different keys."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from prunebench.cli import main, worker
from prunebench.cli.sweeps import applicable, composable


@pytest.mark.parametrize(
    ("line", "forced"),
    [
        ("-m method=none,l1norm method.prune_ratio=0.5", "method.prune_ratio=0.5"),
        ("-m method=none,l1norm method.prune_ratio=0.1,0.5", "method.prune_ratio=0.1,0.5"),
        ("-m method=fpgm,l1norm method.prune_ratio=0.5", ""),
        ("-m method=choice(fpgm,agp) method.every=0.05", "method.every=0.05"),
        ("-m method=agp,agp_structured method.every=0.05", ""),
        ("-m schedule=oneshot,finetune schedule.phases.finetune.epochs=1", "schedule.phases.finetune.epochs=1"),
        ("-m method=none seed=0,1 dataset.batch_size=8", ""),
        ("method=none method.prune_ratio=0.5", ""),
    ],
)
def test_keys_that_some_options_have_are_forced(line: str, forced: str) -> None:
    words = line.split()
    assert composable(words) == [f"++{word}" if word == forced else word for word in words]


def test_a_job_without_the_key_has_nothing_of_it() -> None:
    cfg = OmegaConf.create({"schedule": {"name": "oneshot", "phases": {"pretrain": {}, "finetune": {"epochs": 1}}}})
    words = ["schedule=oneshot", "++schedule.phases.finetune.epochs=1", "seed=1"]
    assert applicable(cfg, words) == (["schedule=oneshot", "seed=1"], ["schedule.phases.finetune.epochs=1"])
    assert cfg == {"schedule": {"name": "oneshot", "phases": {"pretrain": {}}}}
    kept = ["schedule=finetune", "++schedule.phases.finetune.epochs=1"]
    assert applicable(cfg, kept) == (kept, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_was_stopped_has_not_failed(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody has told it to end, as a cluster does at the end of its time: there is no result to look at."""
    monkeypatch.setattr("sys.argv", ["prunebench"])
    monkeypatch.setattr(worker, "run", lambda words, environment: 128 + number)
    words = ["-m", "model=lenet300_100", "method=none", "schedule=simultaneous", f"paths.outputs={tmp_path}"]
    assert main.main(words) == 1
    printed = capsys.readouterr()
    assert "was stopped: model=lenet300_100" in printed.err and "the same command goes on from here" in printed.err
    assert "failed" not in printed.out + printed.err
    os.environ.pop("HYDRA_FULL_ERROR", None)
