"""The table of kept widths: one line a run where seeds of a configuration end with different ones."""

from __future__ import annotations

import json
from pathlib import Path

from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.kept_widths import table
from tests.report.factory import make


def with_widths(folder: Path, dense: tuple[int, ...], kept: tuple[int, ...]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    names = ("fc1", "fc2", "fc3")
    result["net_sha256"] = str(kept)
    result["cost"]["per_layer"] = [
        {"layer": name, "kind": "linear", "dense_out_channels": before, "out_channels": after}
        for name, before, after in zip(names, dense, kept, strict=True)
    ]
    path.write_text(json.dumps(result), encoding="utf-8")


def test_seeds_and_starting_widths_stand_below_each_other(tmp_path: Path) -> None:
    for seed, kept in enumerate([(64, 43, 10), (66, 41, 10)]):
        with_widths(make(tmp_path, method="gates", ratio=0.1, seed=seed), (300, 100, 10), kept)
    with_widths(make(tmp_path, method="gates", ratio=0.2), (600, 200, 10), (65, 40, 10))
    for seed in range(2):  # the same widths whatever the seed: nothing to show
        with_widths(make(tmp_path, method="fixed", seed=seed), (300, 100, 10), (150, 50, 10))
    collection = collect(tmp_path)
    found = table(group(collection.records), collection)
    titles = [column.title for column in found.columns]
    lines = [dict(zip(titles, (cell.text for cell in row), strict=True)) for row in found.rows]
    assert sorted((line["Method"], line["Seed"], line["Started with"], line["Kept"]) for line in lines) == [
        ("gates", "0", "300-100", "64-43"),
        ("gates", "0", "600-200", "65-40"),
        ("gates", "1", "300-100", "66-41"),
    ]
    assert {line["Layers"] for line in lines} == {"fc1, fc2"}
    assert all(line["Accuracy %"] != "–" and line["MACs"] != "–" for line in lines)
