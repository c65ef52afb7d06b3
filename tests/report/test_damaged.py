"""A report over results that somebody has damaged: it is always built, what is bad is listed, the others are shown."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunebench.errors import UserError
from prunebench.report import Report, build, flat
from prunebench.report.predictions import read_predictions
from prunebench.report.record import Record
from prunebench.rows import load_papers
from tests.report.factory import make

DIGITS = 400
"""More than a float can hold."""
VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "1e999": "1e999",
    "negative": "-5",
    "seven": "7",
    "zero": "0",
    "fraction": "0.25",
    "huge": "1" + "0" * DIGITS,
    "denormal": "5e-324",
    "large": "1e300",
    "text": '"x"',
    "empty text": '""',
    "number as text": '"0.9"',
    "half a character": '"\\ud800"',
    "zero character": '"a\\u0000b"',
    "long": json.dumps("n" * 300),
    "markup": json.dumps("</script><img src=x onerror=alert(1)>"),
    "path": '"../../../x"',
    "dollar": '"$x_$\\\\frac{\\n"',
    "list": "[1, 2]",
    "empty list": "[]",
    "list of objects": '[{"a": 1}]',
    "object": '{"a": 1}',
    "empty object": "{}",
    "deep": "[" * 60 + "]" * 60,
}
"""Name -> what stands in the place of a value, as JSON text."""
GONE = "gone"
MARK = "@@here@@"
Place = tuple[str | int, ...]


def paths(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a result; of a list its first item."""
    if at:
        yield at
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value[:1]))
    for key, item in children:
        yield from paths(item, (*at, key))


def damaged(result: dict[str, Any], at: Place, value: str) -> str:
    """``result`` as JSON text with another value at one place, or without it."""
    found = json.loads(json.dumps(result))
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    if value == GONE:
        del inner[at[-1]]
        return json.dumps(found)
    inner[at[-1]] = MARK
    return json.dumps(found).replace(json.dumps(MARK), VALUES[value])


def cases(result: dict[str, Any]) -> list[tuple[Place, str]]:
    return [(at, value) for at in paths(result) for value in (*VALUES, GONE)]


ROW = {"id": "fpgm-t1_resnet56_only40_pretrained", "changed": [], "source": "secondary", "reported": {"accuracy": 0.9}}


def good(root: Path) -> Path:
    """A run with all files, of a paper's row."""
    return make(root, model="resnet56", dataset="cifar10", schedule="finetune", row=ROW)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("template"))


def lay(
    root: Path, template: Path, chosen: Sequence[tuple[Place, str]], *, files: bool
) -> dict[str, tuple[Place, str]]:
    """A folder of damaged results, each a run of its own, beside three good ones; place -> what was done to it."""
    result = json.loads((template / "result.json").read_text(encoding="utf-8"))
    for seed in range(2):
        make(root / "good", model="resnet56", dataset="cifar10", schedule="finetune", seed=seed)
    make(root / "good", method="l1norm", model="resnet56", dataset="cifar10", schedule="finetune")
    done = {}
    for number, (at, value) in enumerate(chosen):
        folder = root / "bad" / f"{number:05d}"
        folder.mkdir(parents=True)
        own = {**result, "run": {**result["run"], "id": f"{number:012x}"}}
        (folder / "result.json").write_text(damaged(own, at, value), encoding="utf-8")
        if files:
            for name in ("predictions.npz", "metrics.csv"):
                shutil.copy(template / name, folder / name)
        done[f"bad/{number:05d}"] = (at, value)
    return done


def report_on(root: Path, *, pictures: bool) -> Report:
    return build(root, root.parent / "out", rows=load_papers(papers=["fpgm"]), pictures=pictures)


def check(report: Report, done: dict[str, tuple[Place, str]]) -> None:
    """Each damaged result is listed with a reason or shown, the good ones are shown, and no text became markup."""
    listed = {item.place.removesuffix("/result.json"): item.reason for item in report.collection.left_out}
    shown = {record.place for record in report.collection.records}
    assert sum(place.startswith("good/") for place in shown) == 3
    for place, what in done.items():
        assert place in shown or place in listed, what
        reason = listed.get(place, "")
        assert len(reason) < 300 and "\n" not in reason, (what, reason)
        assert "no report can be made" not in reason, (what, reason)
    page = report.page.read_text(encoding="utf-8")
    assert "<img" not in page
    assert not re.search(
        r"\bNaN\b|\bInfinity\b", page.partition('type="application/json">')[2].partition("</script>")[0]
    )


def test_a_sample_of_damaged_results(template: Path, tmp_path: Path) -> None:
    result = json.loads((template / "result.json").read_text(encoding="utf-8"))
    found = cases(result)
    assert len(found) > 3000
    chosen = random.Random(0).sample(found, 150)
    done = lay(tmp_path / "runs", template, chosen, files=False)
    check(report_on(tmp_path / "runs", pictures=False), done)


@pytest.mark.slow
@pytest.mark.parametrize("value", [*VALUES, GONE])
def test_every_place_with_every_value(template: Path, tmp_path: Path, value: str) -> None:
    result = json.loads((template / "result.json").read_text(encoding="utf-8"))
    chosen = [(at, value) for at in paths(result)]
    done = lay(tmp_path / "runs", template, chosen, files=True)
    check(report_on(tmp_path / "runs", pictures=True), done)


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def arrays(path: Path, **changes: Any) -> None:
    """Other arrays in the file; None leaves one out."""
    with np.load(path) as stored:
        kept = dict(stored.items()) | changes
    np.savez_compressed(path, **{name: value for name, value in kept.items() if value is not None})


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


N = 10_000
PREDICTIONS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_bytes(b"correct"),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a folder": lambda path: as_folder(path),
    "no arrays": lambda path: np.savez(path),
    "one array": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '|b1', 'shape': (9,)}"),
    "a pickle": lambda path: arrays(path, correct=np.array([{}] * N, dtype=object)),
    "a pickle beside": lambda path: arrays(path, confidence=np.array([{}] * N, dtype=object)),
    "whole numbers": lambda path: arrays(path, correct=np.ones(N, dtype=np.int64)),
    "a table": lambda path: arrays(path, correct=np.ones((N, 2), dtype=bool)),
    "one value": lambda path: arrays(path, correct=np.array(True)),
    "nothing": lambda path: arrays(path, correct=np.zeros(0, dtype=bool), confidence=np.zeros(0)),
    "texts": lambda path: arrays(path, confidence=np.array(["0.5"] * N)),
    "too short": lambda path: arrays(path, confidence=np.ones(N - 1)),
    "NaN": lambda path: arrays(path, confidence=np.full(N, np.nan)),
    "above one": lambda path: arrays(path, confidence=np.full(N, 1.5, dtype=np.float32)),
    "complex": lambda path: arrays(path, confidence=np.full(N, 0.5j)),
    "no truth": lambda path: arrays(path, correct=None),
}
HISTORIES: dict[str, bytes] = {
    "binary": b"\xff\xfe\x00\x01",
    "a zero": b"phase,epoch,val/accuracy\ntrain,0,\x000.5\n\xff",
    "no heads": b"1,2,3\n4,5,6\n",
    "too many cells": b"phase,epoch,lr\ntrain,0,1,2,3\n",
    "a text for an epoch": b"phase,epoch,lr\ntrain,first,0.1\n",
    "a cell without end": b"phase,epoch,lr\ntrain,0," + b"1" * 200_000 + b"\n",
    "cut short": b"phase,epoch,lr\ntrain,0,0.1\ntra",
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_that_are_none_are_listed(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "runs", dataset="cifar10")
    make(tmp_path / "runs", method="l1norm", dataset="cifar10")
    PREDICTIONS[kind](folder / "predictions.npz")
    report = build(tmp_path / "runs", tmp_path / "out", pictures=False)
    assert len(report.collection.records) == 2
    [left] = report.collection.left_out
    assert left.place.endswith("seed_0/predictions.npz")
    assert "predictions.npz" in report.page.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_history_that_is_none_is_listed(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "runs")
    (folder / "metrics.csv").write_bytes(HISTORIES[kind])
    report = build(tmp_path / "runs", tmp_path / "out", pictures=False)
    assert len(report.collection.records) == 1
    assert [item.place.rpartition("/")[2] for item in report.collection.left_out] == ["metrics.csv"]


@pytest.mark.parametrize("count", [20, pytest.param(600, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_the_predictions_is_listed_or_changes_nothing(tmp_path: Path, count: int) -> None:
    """Compressed and with a checksum: hardly a bit can change without a trace."""
    folder = make(tmp_path / "runs", dataset="cifar10")
    path = folder / "predictions.npz"
    whole, read = path.read_bytes(), read_predictions(folder, "x")
    unseen = 0
    for bit in random.Random(1).sample(range(8 * len(whole)), count):
        path.write_bytes(whole)
        flipped(path, bit)
        try:
            now = read_predictions(folder, "x")
        except UserError:
            continue
        assert np.array_equal(now.correct, read.correct)
        unseen += 1
    assert unseen < count / 5  # dates and the like
    report = build(tmp_path / "runs", tmp_path / "out", pictures=False)
    assert len(report.collection.records) == 1


def test_a_configuration_beside_a_result_is_not_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    (folder / "config.yaml").write_bytes(b"\xff\x00: [")
    assert build(tmp_path / "runs", tmp_path / "out", pictures=False).collection.left_out == []


def test_what_nobody_thought_of_is_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        make(tmp_path / "runs", seed=seed)
    tried = flat.write_runs

    def fails(records: Sequence[Record], folder: Path) -> Path:
        assert all(record.seed != 3 for record in records), "seed 3"
        return tried(records, folder)

    monkeypatch.setattr(flat, "write_runs", fails)
    report = build(tmp_path / "runs", tmp_path / "out", pictures=False)
    assert [record.seed for record in report.collection.records] == [0, 1, 2, 4]
    [left] = report.collection.left_out
    assert left.place.endswith("seed_3/result.json")
    assert "no report can be made with it (AssertionError: seed 3" in left.reason
    monkeypatch.setattr(flat, "write_runs", lambda records, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a fault of the report, not of a result
        build(tmp_path / "runs", tmp_path / "out", pictures=False)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    make(tmp_path / "runs")
    strange = os.fsencode(tmp_path / "runs") + b"/\xff\xfe"
    os.mkdir(strange)
    with open(strange + b"/result.json", "w") as file:
        file.write("{")
    report = build(tmp_path / "runs", tmp_path / "out", pictures=False)
    assert [item.place for item in report.collection.left_out] == ["??/result.json"]
