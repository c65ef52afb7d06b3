"""The registry in tables and on the page: every metric under its name, and what a method reports under its own."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prunebench.measure.metrics import METRICS
from prunebench.measure.stages import STAGES
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.numbers import metrics_of
from prunebench.report.page_data import folded, page_data
from prunebench.report.summaries import configurations
from prunebench.report.values import ORDER, heading, ours
from prunebench.rows.fields import FIELDS
from tests.report.factory import make


def change(folder: Path, stage: str, **values: Any) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["metrics"].setdefault(stage, {}).update(values)
    path.write_text(json.dumps(result), encoding="utf-8")


def everything(root: Path) -> Path:
    """A run that has all metrics of a stage, and some that only its method knows."""
    folder = make(root)
    for stage in STAGES:
        values: dict[str, Any] = {}
        for metric in METRICS.values():
            if metric.place == "metrics":
                group_name, _, name = metric.key.rpartition(".")
                (values.setdefault(group_name, {}) if group_name else values)[name] = 0.25
        change(folder, stage, **values, method={"uce": 0.0123456, "=a name": 3, "kept": [1, 2]})
    return folder


def test_the_table_of_configurations_has_every_metric(tmp_path: Path) -> None:
    everything(tmp_path)
    table = configurations(group(collect(tmp_path).records))
    [row] = table.rows
    shown = {column.title: cell.text for column, cell in zip(table.columns, row, strict=True)}
    for metric in METRICS.values():
        if metric.place == "metrics" and metric.shown == "summary":
            assert shown[metric.column] == metric.show(0.25), metric.key
    assert (shown["uce"], shown["=a name"]) == ("0.01235", "3")
    assert "kept" not in shown


def test_the_page_has_every_metric_and_stage(tmp_path: Path) -> None:
    everything(tmp_path)
    collection = collect(tmp_path)
    data = page_data(collection, group(collection.records))
    data["names"] += json.loads(gzip.decompress(base64.b64decode(folded(collection, {}))))["names"]
    assert [stage["name"] for stage in data["stages"]] == list(STAGES)
    on_page = {metric["key"]: metric for metric in data["metrics"]}
    for stage in STAGES:
        for key in on_page:
            if on_page[key]["place"] == "metrics":
                assert f"{stage}.{key}" in data["names"]
    assert {key for key, metric in METRICS.items() if metric.shown in ("summary", "detail")} <= on_page.keys()
    assert on_page["accuracy"]["label"] == "Test accuracy %"
    assert (on_page["method.uce"]["label"], on_page["method.uce"]["better"]) == ("uce", None)


def test_what_a_method_reports_must_be_a_number_to_be_shown(tmp_path: Path) -> None:
    change(make(tmp_path), "final", method={"uce": 0.1, "on": True, "word": "x", "nothing": None})
    [record] = collect(tmp_path).records
    assert record.numbers["final.method.uce"] == 0.1
    assert [name for name in record.numbers if ".method." in name] == ["final.method.uce"]
    assert [metric.key for metric in metrics_of([record.numbers], "summary")].count("method.uce") == 1


@pytest.mark.parametrize("value", ["text", [1], {"uce": float("inf")}])
def test_a_foreign_group_of_own_numbers_is_left_out_with_its_reason(tmp_path: Path, value: Any) -> None:
    change(make(tmp_path), "final", method=value)
    [left] = collect(tmp_path).left_out
    assert "metrics.final.method" in left.reason


def test_every_published_value_has_a_heading(tmp_path: Path) -> None:
    assert [heading(key) for key in ("dense_accuracy", "accuracy", "accuracy_drop", "top5", "bpc", "dense_macs")] == [
        "Dense accuracy %",
        "Accuracy %",
        "Accuracy drop %",
        "Top-5 %",
        "BPC",
        "Dense MACs",
    ]
    assert all(heading(key).strip() for key in FIELDS)
    everything(tmp_path)
    [found] = group(collect(tmp_path).records)
    for key, metric in METRICS.items():
        if key in ORDER and metric.place == "metrics":
            value = ours(found, key)
            assert value is not None and value.mean == 0.25, key
