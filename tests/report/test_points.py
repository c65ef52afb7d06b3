"""Operating points of one trained net: in the page's data and in the pictures, checked like every foreign value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.figures import draw
from prunebench.report.page_data import page_data
from tests.report.factory import make


def point(name: str, accuracy: Any, macs: Any) -> dict[str, Any]:
    return {
        "name": name,
        "settings": {"removed": 0.5},
        "metrics": {"split": "test", "num_samples": 360, "accuracy": accuracy, "nll": 0.4, "method": {"own": 0.5}},
        "cost": {"macs": macs, "params": 1_000},
    }


def with_points(root: Path, *points: Any) -> Path:
    folder = make(root)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "points": list(points)}))
    return folder


def test_points_are_on_the_page_and_in_the_picture(tmp_path: Path) -> None:
    with_points(tmp_path, point("half", 0.9, 1_200_000), point("<b>", 0.7, 600_000))
    found = collect(tmp_path)
    groups = group(found.records)
    [(key, shown)] = page_data(found, groups)["points"].items()
    assert key == found.records[0].key
    assert [(name, settings) for name, _, settings in shown] == [("half", {"removed": 0.5}), ("<b>", {"removed": 0.5})]
    assert shown[0][1]["accuracy"] == 0.9 and shown[0][1]["macs"] == 1_200_000
    assert shown[0][1]["method.own"] == 0.5  # what a method says of a point
    panel = draw("title", groups, ["fpgm"]).axes[0]
    marks = {
        (x, y)
        for line in panel.lines
        for x, y in zip(*(list(np.asarray(axis)) for axis in line.get_data()), strict=True)
    }
    assert {(1.2, 90.0), (0.6, 70.0)} <= {(round(float(x), 9), round(float(y), 9)) for x, y in marks}


def test_a_run_without_points_takes_no_place(tmp_path: Path) -> None:
    make(tmp_path)
    found = collect(tmp_path)
    assert page_data(found, group(found.records))["points"] == {}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (point("half", "0.9", 1), r"points\.0\.metrics\.accuracy is '0.9', not a number"),
        (point("half", 0.9, [1]), r"points\.0\.cost\.macs is \[1\], not a number"),
        ({**point("half", 0.9, 1), "name": None}, r"points\.0\.name is missing, not a text"),
        ({**point("half", 0.9, 1), "metrics": [1]}, r"points\.0\.metrics is \[1\], not an object"),
        ({**point("half", 0.9, 1), "settings": "x"}, r"points\.0\.settings is 'x', not an object"),
        ("half", "points is .*, not a list of objects"),
    ],
)
def test_points_that_are_none_are_named(tmp_path: Path, bad: Any, reason: str) -> None:
    with_points(tmp_path, bad)
    found = collect(tmp_path)
    assert found.records == []
    [left] = found.left_out
    assert re.search(reason, left.reason), left.reason


def with_distribution(root: Path, given: Any) -> Path:
    folder = make(root)
    result = json.loads((folder / "result.json").read_text())
    budget = {**(result.get("budget") or {}), "weights": 4, "distributions": {"mean of fc weights": given}}
    (folder / "result.json").write_text(json.dumps({**result, "budget": budget}))
    return folder


def test_distributions_are_a_fact_of_their_own(tmp_path: Path) -> None:
    given = {"edges": [0, 1, 2], "counts": [3, 1], "cdf": [0.75, 1.0], "below": 0}
    with_distribution(tmp_path, given)
    found = collect(tmp_path)
    [record] = found.records
    drawn = found.pool.values[record.facts["distributions"]]
    assert drawn == {"mean of fc weights": {"edges": [0, 1, 2], "counts": [3, 1], "cdf": [0.75, 1.0]}}
    assert found.pool.values[record.facts["budget"]] == {"weights": 4}


@pytest.mark.parametrize(
    "bad", [[1], {"edges": [0, 1], "counts": [1, 2], "cdf": [1]}, {"edges": [0, "<b>"], "counts": [1], "cdf": [1]}]
)
def test_a_distribution_that_is_none_is_named(tmp_path: Path, bad: Any) -> None:
    with_distribution(tmp_path, bad)
    [left] = collect(tmp_path).left_out
    assert "budget.distributions.mean of fc weights" in left.reason
