"""Published runs beside one's own: read from their bits, marked, counted once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunebench.disk.correct import FILE, labels_sha256, read_bits, write_bits
from prunebench.errors import UserError
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.details import reliability
from prunebench.report.leagues import families
from prunebench.report.pairs import read_correct
from prunebench.report.summaries import configurations
from tests.report.factory import make


def store(runs: Path, published: Path, edit: Callable[[dict[str, Any]], None] = lambda result: None) -> Path:
    """The run folder ``runs`` as it lies in the open store: without predictions, with its bits."""
    target = published / runs.relative_to(runs.parents[2])
    shutil.copytree(runs, target, ignore=shutil.ignore_patterns("predictions.npz", "metrics.csv"))
    with np.load(runs / "predictions.npz") as arrays:
        label, correct = arrays["label"], arrays["correct"]
    result = json.loads((target / "result.json").read_text())
    result["data"]["test_labels_sha256"] = labels_sha256(label)
    result["published"] = {"commit": "0" * 40, "measured_again": {"accuracy": float(correct.mean())}}
    edit(result)
    (target / "result.json").write_text(json.dumps(result))
    write_bits(target / FILE, correct, labels_sha256(label))
    return target


@pytest.mark.parametrize("count", [*range(18), 360, 10_000])
def test_bits_come_back(tmp_path: Path, count: int) -> None:
    correct = np.random.default_rng(count).random(count) < 0.7
    write_bits(tmp_path / FILE, correct, "a" * 64)
    found, labels = read_bits(tmp_path / FILE)
    assert labels == "a" * 64
    assert found.dtype == np.bool_ and np.array_equal(found, correct)
    assert (tmp_path / FILE).stat().st_size < 700 + count / 8


def test_damaged_bits_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / FILE
    write_bits(path, np.arange(360) % 3 > 0, "a" * 64)
    whole = path.read_bytes()
    for at in range(0, len(whole), 40):
        path.write_bytes(whole[:at])
        with pytest.raises(UserError, match=r"correct\.npz cannot be read"):
            read_bits(path)
    for bits, count in ((np.zeros(5, np.uint8), 99), (np.zeros(5, np.uint8), 3), (np.zeros(5), 40)):
        np.savez(path, bits=bits, count=count, labels_sha256="a")
        with pytest.raises(UserError, match="does not hold one bit per example"):
            read_bits(path)


def test_a_published_run_is_read_without_its_predictions(tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    store(folder, tmp_path / "published")
    [own], [record] = collect(tmp_path / "runs").records, collect(None, published=tmp_path / "published").records
    assert (own.published, record.published) == (False, True)
    assert record.place == f"published/{own.place}"
    assert np.array_equal(read_correct(record), read_correct(own))
    assert reliability(own) and reliability(record) is None


def test_runs_are_only_paired_on_the_same_examples(tmp_path: Path) -> None:
    """Bits that belong to other labels, or to labels in another order, are refused."""
    store(make(tmp_path / "runs", method="fpgm"), tmp_path / "published")
    other = store(make(tmp_path / "runs", method="l1norm"), tmp_path / "published")
    [family] = families(group(collect(None, published=tmp_path / "published").records))[0]
    assert [pair.n for pair in family.budgets[0].pairs] == [360]
    correct, _ = read_bits(other / FILE)
    for bits, labels in ((correct, "0" * 64), (correct[:-1], read_bits(other / FILE)[1])):
        write_bits(other / FILE, bits, labels)
        [family] = families(group(collect(None, published=tmp_path / "published").records))[0]
        assert family.budgets[0].pairs == ()
        assert "is about other test examples" in family.refused[0]


def test_a_run_that_is_in_both_counts_once_and_keeps_its_curves(tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    store(folder, tmp_path / "published")
    found = collect(tmp_path / "runs", published=tmp_path / "published")
    [record] = found.records
    assert found.left_out == []
    assert record.published and record.folder == folder
    assert "commit" in found.pool.values[record.facts["published"]]


def test_of_other_numbers_under_one_name_the_published_count(tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    store(folder, tmp_path / "published")
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["final"]["accuracy"] = 0.9999
    (folder / "result.json").write_text(json.dumps(result))
    found = collect(tmp_path / "runs", published=tmp_path / "published")
    [record] = found.records
    assert record.published and record.numbers["final.accuracy"] < 0.9999
    assert "the same run and seed as published/" in found.left_out[0].reason
    assert found.left_out_words == "1 result repeats a run of the report"


def test_the_tables_say_how_many_are_published(tmp_path: Path) -> None:
    for seed in range(3):
        folder = make(tmp_path / "runs", seed=seed)
    table = configurations(group(collect(tmp_path / "runs").records))
    assert "Published" not in [column.title for column in table.columns]
    store(folder, tmp_path / "published")
    table = configurations(group(collect(tmp_path / "runs", published=tmp_path / "published").records))
    at = [column.title for column in table.columns].index("Published")
    assert [row[at].text for row in table.rows] == ["1"]
