"""A run that is made again: what was there is moved, never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.disk.lock import FolderLock, Locked
from prunebench.run.replaced import set_aside


def run_of(outputs: Path, text: str) -> Path:
    folder = outputs / "runs" / "fpgm-net-digits" / "0123" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    return folder


def test_each_one_has_a_place_of_its_own(tmp_path: Path) -> None:
    kept = [set_aside(run_of(tmp_path, text), tmp_path) for text in "abc"]
    assert [(path / "result.json").read_text() for path in kept] == list("abc")
    assert [path.relative_to(tmp_path).as_posix() for path in kept] == [
        f"replaced/fpgm-net-digits/0123/seed_0-{number}" for number in (1, 2, 3)
    ]


def test_a_run_in_progress_stays(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "a")
    with FolderLock(folder), pytest.raises(Locked):
        set_aside(folder, tmp_path)
    assert (folder / "result.json").exists() and not (tmp_path / "replaced").exists()
