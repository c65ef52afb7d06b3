"""What can be read is in the report, what cannot is named with its reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunebench.errors import UserError
from prunebench.report import build
from prunebench.report.collect import collect, find
from prunebench.report.configurations import group
from prunebench.report.summaries import configurations
from tests.report.factory import make


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    edit(result)
    path.write_text(json.dumps(result))


def test_a_record_holds_what_the_result_says(tmp_path: Path) -> None:
    folder = make(tmp_path, dataset="cifar10", ratio=0.4, seed=2)
    result = json.loads((folder / "result.json").read_text())
    [record] = collect(tmp_path).records
    assert (record.method, record.model, record.dataset, record.schedule) == ("fpgm", "resnet20", "cifar10", "oneshot")
    assert record.key == f"{result['run']['id']}/2"
    assert record.numbers["final.accuracy"] == result["metrics"]["final"]["accuracy"]
    assert record.numbers["dense.macs"] == result["cost"]["dense"]["macs"]
    assert record.numbers["speedup.batch_64"] == result["latency"]["speedup"]["batch_64"]
    assert record.settings["method.prune_ratio"] == 0.4
    assert record.checkpoint == result["model"]["pretrained"]["sha256"]
    assert record.place == folder.relative_to(tmp_path).as_posix()
    convolutions = [row for row in result["cost"]["per_layer"] if row["kind"] != "norm"]
    assert record.kept == tuple(row["out_channels"] for row in convolutions)


def test_the_spread_of_the_cost_over_samples_is_read_where_there_is_one(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert "final.per_sample.sd" not in collect(tmp_path).records[0].numbers
    change(folder, lambda result: result["cost"]["final"].update(per_sample={"mean": 5e6, "sd": 1.25e6}))
    found = collect(tmp_path)
    assert found.records[0].numbers["final.per_sample.sd"] == 1.25e6
    table = configurations(group(found.records))
    column = [column.name for column in table.columns].index("macs_sd_over_samples")
    assert table.rows[0][column].text == "± 1.25"


def test_equal_facts_are_stored_once(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, seed=seed)
    found = collect(tmp_path)
    assert len({record.facts["versions"] for record in found.records}) == 1
    assert len({record.facts["command"] for record in found.records}) == 3


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no accuracy": (lambda r: r["metrics"]["final"].pop("accuracy"), "neither accuracy nor bpc"),
    "accuracy as text": (lambda r: r["metrics"]["final"].update(accuracy="0.9"), r"metrics\.final\.accuracy is '0.9'"),
    "accuracy true": (lambda r: r["metrics"]["final"].update(accuracy=True), "is True, not a number"),
    "metrics a list": (lambda r: r.update(metrics=[1]), "metrics must be a table, got"),
    "no costs": (lambda r: r["cost"].pop("final"), r"cost\.final is missing"),
    "seed as text": (lambda r: r["run"].update(seed="0"), r"run\.seed must be a whole number, got '0'"),
    "no id": (lambda r: r["run"].pop("id"), r"run\.id is missing"),
    "method as text": (lambda r: r.update(method="fpgm"), "method must be a table, got 'fpgm'"),
    "layers as text": (lambda r: r["cost"].update(per_layer="conv1"), r"cost\.per_layer must be a list"),
    "half an interval": (lambda r: r["guarantee"].update(accuracy_interval_95=[0.9]), r"not \[low, high\]"),
    "another schema": (lambda r: r.update(schema=2), "not a result of schema 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_foreign_result_is_left_out_with_its_reason(tmp_path: Path, case: str) -> None:
    make(tmp_path, seed=1)
    edit, reason = BROKEN[case]
    change(make(tmp_path, seed=0), edit)
    found = collect(tmp_path)
    assert [record.seed for record in found.records] == [1]
    [left] = found.left_out
    assert left.place.endswith("seed_0/result.json")
    assert re.search(reason, left.reason)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "sta', b"\xff\xfe\x00", b"[]", b"null", b"[" * 100_000])
def test_truncated_and_binary_files_are_left_out(tmp_path: Path, content: bytes) -> None:
    make(tmp_path, seed=1)
    (make(tmp_path, seed=0) / "result.json").write_bytes(content)
    found = collect(tmp_path)
    assert len(found.records) == len(found.left_out) == 1


def test_a_failed_run_is_kept_without_numbers(tmp_path: Path) -> None:
    make(tmp_path, status="failed")
    [record] = collect(tmp_path).records
    assert not record.measured
    assert record.error == "the loss is not finite in phase finetune, epoch 3"
    assert "final.accuracy" not in record.numbers


def test_a_copy_of_a_run_counts_once(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    found = collect(tmp_path)
    assert len(found.records) == 1
    assert "the same run and seed" in found.left_out[0].reason
    assert found.left_out_words == "1 result repeats a run of the report"


def test_what_cannot_be_read_and_what_repeats_are_counted_apart(tmp_path: Path) -> None:
    assert collect(tmp_path).left_out_words == ""
    for place in "abc":
        make(tmp_path / place)
    broken = [make(tmp_path / "a", method=method) / "result.json" for method in ("l1norm", "random")]
    for path in broken:
        path.write_text("{")
    report = build(tmp_path, tmp_path / "out", pictures=False)
    words = "2 files could not be used, 2 results repeat a run of the report"
    assert report.collection.left_out_words == words
    assert report.page.read_text(encoding="utf-8").count(words) == 2  # in the tile and over the list


def test_links_in_circles_and_hidden_folders_are_no_trouble(tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    os.symlink(tmp_path / "runs", tmp_path / "runs" / "again", target_is_directory=True)
    make(tmp_path / "runs" / ".trash")
    assert find(tmp_path / "runs") == [folder]


def test_progress_is_told(tmp_path: Path) -> None:
    for seed in range(2):
        make(tmp_path, seed=seed)
    told: list[tuple[int, int]] = []
    collect(tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; give the folder of the runs"):
        collect(tmp_path / "nothing")


def test_runs_without_a_result_are_unfinished(tmp_path: Path) -> None:
    make(tmp_path, seed=0)
    folder = make(tmp_path, seed=1)
    (folder / "result.json").unlink()
    (folder / "config.yaml").write_text("seed: 1\n")
    (folder / "log.txt").write_text("2026-11-20 phase pretrain: 30 epochs\n2026-11-20 <b>epoch 3/30</b>\n\n")
    found = collect(tmp_path)
    assert [record.seed for record in found.records] == [0]
    [unfinished] = found.unfinished
    assert unfinished.place.endswith("/seed_1")
    assert unfinished.said == "2026-11-20 <b>epoch 3/30</b>"
    page = build(tmp_path, tmp_path / "out", pictures=False).page.read_text(encoding="utf-8")
    assert "1 unfinished" in page and "&lt;b&gt;epoch 3/30&lt;/b&gt;" in page
