"""A changed bit is found wherever it is, and what was made from something else is not taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.disk import artifacts, finished
from prunebench.disk.seal import (
    Damaged,
    file_sha256,
    read_value,
    read_with_trailer,
    value_sha256,
    write_value,
    write_with_trailer,
)
from prunebench.disk.tensors import read_tensors, tensors_sha256, write_tensors

VALUE = {"plan": {"conv1": [0, 3, 5]}, "share": 0.1, "text": "é", "none": None}
STATE = {"a": torch.tensor([1.0, -2.5, 0.0]), "b": torch.tensor([[True, False]]), "c": torch.tensor(7)}
BYTES = bytes(range(60))

Write = Callable[[Path], None]
Read = Callable[[Path], Any]
KINDS: dict[str, tuple[Write, Read]] = {
    "value": (lambda path: write_value(path, VALUE, after="x"), lambda path: value_sha256(read_value(path, after="x"))),
    "tensors": (
        lambda path: write_tensors(path, STATE, after="x"),
        lambda path: tensors_sha256(read_tensors(path, after="x")),
    ),
    "trailer": (
        lambda path: write_with_trailer(path, BYTES, after="x"),
        lambda path: read_with_trailer(path, after="x"),
    ),
}


@pytest.fixture(params=list(KINDS))
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Read]:
    write, read = KINDS[request.param]
    write(tmp_path / "f")
    return tmp_path / "f", read


def changes(content: bytes) -> Iterator[bytes]:
    """Every flipped bit, every length."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]
        yield content[:place]
    yield content + b"\0"


def test_a_changed_file_is_never_believed(stored: tuple[Path, Read]) -> None:
    path, read = stored
    content, whole = path.read_bytes(), read(path)
    believed = []
    for changed in changes(content):
        path.write_bytes(changed)
        try:
            believed.append(read(path) == whole)  # a blank between two words may be another one
        except Damaged:
            continue
    assert all(believed) and len(believed) < 10


def test_what_was_made_from_something_else_is_not_taken(tmp_path: Path) -> None:
    for kind, (write, _) in KINDS.items():
        write(tmp_path / kind)
    for read in (
        lambda: read_value(tmp_path / "value", after="y"),
        lambda: read_tensors(tmp_path / "tensors", after="y"),
        lambda: read_with_trailer(tmp_path / "trailer", after="y"),
    ):
        with pytest.raises(Damaged):
            read()
    # who does not ask gets it
    assert read_value(tmp_path / "value") == VALUE
    assert read_tensors(tmp_path / "tensors").keys() == STATE.keys()


def test_equal_tensors_have_equal_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_tensors(tmp_path / name, dict(sorted(STATE.items(), reverse=name == "one")), after="x")
    assert file_sha256(tmp_path / "one") == file_sha256(tmp_path / "other")


def test_a_value_and_its_files_are_made_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    said: list[str] = []
    monkeypatch.setattr(artifacts.log, "warning", lambda text, error: said.append(text % error))

    def make() -> dict[str, int]:
        made.append(len(made))
        (tmp_path / "table").write_text(str(made[-1]))
        return {"number": made[-1]}

    def ask(after: str = "") -> int:
        number: int = artifacts.once(tmp_path / "v.json", make, after=after, beside=[tmp_path / "table"])["number"]
        assert (tmp_path / "table").read_text() == str(number)
        return number

    assert (ask(), ask()) == (0, 0) and not said
    (tmp_path / "table").write_text("7")
    assert (ask(), ask()) == (1, 1)
    (tmp_path / "table").unlink()
    assert ask() == 2
    assert ask("other weights") == 3
    (tmp_path / "v.json").unlink()  # as if it had never been: nothing to warn of
    assert ask("other weights") == 4
    reasons = ("table is not what was written", "table cannot be read", "v.json was made from something else")
    assert len(said) == len(reasons)
    assert all(reason in text and "made again" in text for reason, text in zip(reasons, said, strict=True))


def test_none_is_a_value(tmp_path: Path) -> None:
    assert artifacts.once(tmp_path / "v.json", lambda: None) is None
    assert artifacts.once(tmp_path / "v.json", lambda: 1 / 0) is None


def test_a_phase_is_finished_with_all_its_files(tmp_path: Path) -> None:
    best = {"net.a": torch.zeros(2)}
    finished.write(tmp_path, after="x", record={"n": 1}, history=[{"e": 0}], weights=STATE, best=best)
    found = finished.read(tmp_path, after="x")
    assert found is not None and found.has_best and torch.equal(found.best()["net.a"], torch.zeros(2))
    assert finished.read(tmp_path, after="y") is None
    (tmp_path / finished.BEST).unlink()
    assert finished.read(tmp_path, after="x") is None
    # a phase without a best epoch does not find that of an earlier attempt
    finished.write(tmp_path, after="x", record={}, history=[], weights=STATE, best=best)
    finished.write(tmp_path, after="x", record={}, history=[], weights=STATE, best=None)
    found = finished.read(tmp_path, after="x")
    assert found is not None and not found.has_best
    assert json.loads((tmp_path / finished.RECORD).read_text())["beside"].keys() == {finished.WEIGHTS}
