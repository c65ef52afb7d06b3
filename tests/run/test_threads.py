"""The number of threads follows from the work, is stored, and stays when a run is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prunebench.run import assemble, threads
from prunebench.run.job import Job
from tests.kit import configure, run


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "AVAILABLE", 8)
    yield
    torch.set_num_threads(before)


def job(folder: Path, *overrides: str) -> Job:
    config, _ = configure(folder, *overrides)
    return assemble.build(assemble.identified(config), folder)[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model=resnet20",), 1),  # 2.5 million MACs in 20 layers, batches of 64
        (("model=resnet20", "trainer.num_threads=5"), 5),
        (("model=resnet20", "dataset.size=32", "schedule=scratch", "schedule.phases.train.batch_size=512"), 8),
        # 40 million MACs in 20 layers, batches of 128: 258 million a layer
        (("model=resnet20", "dataset.size=32", "schedule=scratch", "schedule.phases.train.batch_size=128"), 2),
    ],
)
def test_threads_follow_from_the_work(tmp_path: Path, overrides: tuple[str, ...], expected: int) -> None:
    assert threads.settle(job(tmp_path, *overrides)) == expected == torch.get_num_threads()


def test_a_resumed_run_has_the_threads_that_it_began_with(tmp_path: Path) -> None:
    begun = job(tmp_path)
    threads.keep(begun, 3)
    assert threads.settle(job(tmp_path)) == 3
    assert threads.settle(job(tmp_path, "trainer.num_threads=2")) == 2  # whoever asks, gets
    stored = tmp_path / threads.FILE
    stored.write_text(stored.read_text().replace("3", "4", 1))
    assert threads.settle(job(tmp_path)) == 1  # damaged: as if new


def test_a_result_says_how_many(tmp_path: Path) -> None:
    small = ("model=lenet300_100", "method=none", "schedule=scratch", "schedule.phases.train.epochs=1")
    result, folder = run(tmp_path, *small, "latency=false", "trainer.progress=false")
    assert result["run"]["hardware"]["threads"] == 1
    assert (folder / threads.FILE).exists()
