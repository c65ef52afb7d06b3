"""The table of guarantees: intervals that hold together, Holm over a data set and model, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.measure.statistics import clopper_pearson, holm
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.guarantees import table
from prunebench.report.tables import to_markdown
from tests.report.factory import make


def test_no_two_lines_of_the_file_say_the_same(tmp_path: Path) -> None:
    for schedule in ("oneshot", "finetune"):
        for ratio in (0.3, 0.5):
            make(tmp_path, ratio=ratio, schedule=schedule)
    make(tmp_path, ratio=0.3, row={"id": "fpgm-t1_resnet20_only40"})
    found = table(group(collect(tmp_path).records))
    titles = [column.title for column in found.columns]
    known = [titles.index(title) for title in ("Net and data", "Schedule", "Method", "Setting", "Row")]
    rows = [line.split(" | ") for line in to_markdown(found.readable).splitlines() if line.startswith("| resnet20")]
    assert len({tuple(row[i] for i in known) for row in rows}) == len(rows) == 5


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
    assert [line["Setting"].text for line in lines] == ["prune_ratio 0.3", "prune_ratio 0.5", "–"]
    assert {line["Schedule"].text for line in lines} == {"oneshot"}
    assert lines[0]["Guarantee"].below == "1 of 3 seeds"
    # five runs with three test evaluations each
    first = groups[0].first
    count = int(first.numbers["final.num_samples"])
    wide = clopper_pearson(round(first.numbers["final.accuracy"] * count), count, family=15)
    assert lines[0]["interval_family"].text == f"{100 * wide[0]:.2f}–{100 * wide[1]:.2f}"
    p = [item.first.guarantee["against"]["p"] for item in groups]
    assert [line["p_holm"].value for line in lines] == pytest.approx(holm(p))
    assert lines[0]["accuracy_minus_dense"].value == pytest.approx(groups[0].first.guarantee["against"]["difference"])
