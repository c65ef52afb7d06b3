"""Files are whole or absent, and a broken one says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prunebench.disk.atomic import read_json, remove, write_json, write_rows, write_text
from prunebench.errors import UserError


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nll": float("nan"), "list": [float("inf"), 1.5], "n": 3})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nll": None, "list": [None, 1.5], "n": 3}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "f", "old")

    def no_space(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"f cannot be written \(no space left on device\); free space"):
        write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_stands_in_the_place_of_a_file_or_its_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(UserError, match=r"cannot be written anew \(.*\); take away what is in its place"):
            remove(place)
        with pytest.raises(UserError, match="cannot be written"):
            write_text(place, "x")
    remove(tmp_path / "file")
    remove(tmp_path / "file")
    assert os.listdir(tmp_path) == ["folder"]


def test_columns_are_the_union_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.csv", [{"phase": "a", "ce": 1}, {"phase": "b", "kl": 2}])
    assert (tmp_path / "m.csv").read_text().splitlines() == ["phase,ce,kl", "a,1,", "b,,2"]


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json cannot be read"):
        read_json(tmp_path / "nothing.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("pipe.json", "deep.json", "."):
        with pytest.raises(UserError, match=r"cannot be read \(.*\); delete it"):
            read_json(tmp_path / name)
