"""The table of guarantees: intervals that hold together, Holm over a data set and model, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.measure.statistics import clopper_pearson, holm
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.guarantees import table
from tests.report.factory import make


def test_a_line_per_configuration(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, method="random", ratio=0.3, seed=seed)
    make(tmp_path, method="fpgm", ratio=0.3)
    make(tmp_path, method="fpgm", ratio=0.5)
    found = table(groups := group(collect(tmp_path).records))
    names = [column.name or column.title for column in found.columns]
    lines = [dict(zip(names, row, strict=True)) for row in found.rows]
    assert [(line["Method"].text, line["Guarantee"].text) for line in lines] == [
        *[("fpgm", "interval only")] * 2,
        ("random", "full"),
    ]
    assert lines[0]["Guarantee"].below == "1 of 3 seeds"
    # five runs with three test evaluations each
    first = groups[0].first
    count = int(first.numbers["final.num_samples"])
    wide = clopper_pearson(round(first.numbers["final.accuracy"] * count), count, family=15)
    assert lines[0]["interval_family"].text == f"{100 * wide[0]:.2f}–{100 * wide[1]:.2f}"
    p = [item.first.guarantee["against"]["p"] for item in groups]
    assert [line["p_holm"].value for line in lines] == pytest.approx(holm(p))
    assert lines[0]["accuracy_minus_dense"].value == pytest.approx(groups[0].first.guarantee["against"]["difference"])
