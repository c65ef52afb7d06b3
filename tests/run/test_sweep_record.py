"""A job of a sweep that is refused before its run leaves a failed result; a single command leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunebench.cli import main
from prunebench.config.identity import run_folder
from prunebench.core.result import is_complete, read_result, write_result
from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError
from prunebench.report.collect import collect
from prunebench.run import assemble
from prunebench.run.sweep_record import MARK, forget_missing_data, job_environment
from tests.kit import SHORT, configure

IN_BUILD = (*SHORT, "model=lenet300_100", "model.pretrained=/nowhere/net.th")
IN_CHECK = (*SHORT, "model=lenet300_100", "method=soft_filter_pruning", "schedule=oneshot")


def refused(outputs: Path, *overrides: str) -> Path:
    """Execute what must be refused; the run's folder."""
    config, text = configure(outputs, *overrides)
    with pytest.raises(UserError):
        main.execute(config, text, run_folder(config))
    return run_folder(config)


@pytest.mark.parametrize(
    ("overrides", "words"), [(IN_BUILD, "/nowhere/net.th"), (IN_CHECK, "schedule=oneshot is not supported")]
)
def test_a_job_of_a_sweep_leaves_its_error(
    overrides: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = refused(tmp_path, *overrides)
    assert not folder.exists()

    monkeypatch.setenv(MARK, job_environment()[MARK])
    folder = refused(tmp_path, *overrides)
    result = read_result(folder)
    assert result["status"] == "failed" and words in result["error"] and "Traceback" in result["traceback"]
    assert result["method"]["name"] == ("soft_filter_pruning" if overrides is IN_CHECK else "fpgm")
    assert words in (folder / "log.txt").read_text()
    assert (folder / "config.yaml").read_text().startswith("seed: 0")
    assert not is_complete(folder)
    (record,) = collect(tmp_path / "runs").records
    assert record.error == result["error"]


def test_the_next_start_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    overrides = (*SHORT, "model=lenet300_100", "schedule=oneshot", "dataset.epochs.train=0")
    config, text = configure(tmp_path, *overrides)
    folder = run_folder(config)
    write_result(folder, {"schema": 1, "status": "failed", "error": "an older one"})
    with monkeypatch.context() as broken:
        broken.setattr(assemble, "build", lambda *_: (_ for _ in ()).throw(UserError("a newer one")))
        refused(tmp_path, *overrides)
    assert read_result(folder)["error"] == "a newer one"
    assert main.execute(config, text, folder)["status"] == "complete"
    assert is_complete(folder) and "error" not in read_result(folder)


def test_the_folder_of_another_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    config, _ = configure(tmp_path, *IN_CHECK)
    with FolderLock(run_folder(config)):
        refused(tmp_path, *IN_CHECK)
    assert [path.name for path in run_folder(config).iterdir()] == [".lock"]


TEXT = ("dataset=bytes", "model=transformer_xl", "method=none", "dataset.files=[t.txt]", "dataset.window=8")


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[dict[str, Any], Path]]:
    """``late(seed)``: a job of a sweep whose text does not exist; its configuration and what it leaves."""
    monkeypatch.setenv(MARK, "1")

    def start(seed: int) -> tuple[dict[str, Any], Path]:
        config, text = configure(tmp_path, *TEXT, f"paths.data={tmp_path / 'data'}", f"seed={seed}")
        folder = run_folder(assemble.identified(config))
        with pytest.raises(UserError, match=r"t\.txt"):
            main.execute(config, text, folder)
        return config, folder

    (tmp_path / "data").mkdir()
    return start


def test_a_failure_for_want_of_data_goes_when_they_are_there(
    tmp_path: Path, late: Callable[[int], tuple[dict[str, Any], Path]]
) -> None:
    config, old = late(0)
    forget_missing_data(assemble.identified(config))
    assert read_result(old)["status"] == "failed", "the data are still missing"

    (tmp_path / "data" / "t.txt").write_bytes(bytes(range(97, 122)) * 200)
    config = assemble.identified(config)
    assert run_folder(config) != old
    with FolderLock(old):
        forget_missing_data(config)
    assert read_result(old)["status"] == "failed", "another process writes there"
    forget_missing_data(config)
    assert not old.parent.parent.exists()
    assert not collect(tmp_path / "runs").records


def test_only_the_failure_of_the_same_run_goes(
    tmp_path: Path, late: Callable[[int], tuple[dict[str, Any], Path]]
) -> None:
    (config, old), (_, other) = late(0), late(1)
    (tmp_path / "data" / "t.txt").write_bytes(bytes(range(97, 122)) * 200)
    forget_missing_data(assemble.identified(config))
    assert not old.exists() and read_result(other)["status"] == "failed"
    write_result(old, {"schema": 1, "status": "complete"})
    forget_missing_data(assemble.identified(config))
    assert read_result(old)["status"] == "complete"
