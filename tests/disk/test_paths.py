"""What no file can be called is one sentence, wherever a path is taken from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prunebench.disk.paths import user_path
from prunebench.errors import UserError


def circle(folder: Path) -> Path:
    os.symlink(folder / "b", folder / "a")
    os.symlink(folder / "a", folder / "b")
    return folder / "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "it is empty"), ("x" * 5000, "name too long"), ("a\0b", "it holds a NUL"), ("~no.such.user/x", "home")],
)
def test_what_is_no_path_says_why(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^'.*' is no path of a file or folder \(.*{reason}[^\n]*\)$") as error:
        user_path(text)
    assert len(str(error.value)) < 200


def test_a_circle_of_links_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="symbolic links"):
        user_path(circle(tmp_path))


def test_a_path_of_nothing_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/not/there") == tmp_path / "not/there"
    assert user_path("not/there") == Path("not/there")
    (tmp_path / "file").touch()
    assert user_path(tmp_path / "file" / "below") == tmp_path / "file" / "below"
