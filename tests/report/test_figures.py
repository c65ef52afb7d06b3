"""The front, the pictures, and what the runs can support."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.container import ErrorbarContainer

from prunebench.report import figures, support
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from tests.report.conftest import Built
from tests.report.factory import make


def test_the_front_keeps_what_nothing_beats() -> None:
    points = [(1.0, 50.0), (2.0, 80.0), (2.0, 70.0), (3.0, 75.0), (4.0, 80.0), (5.0, 90.0)]
    assert figures.front(points) == [(1.0, 50.0), (2.0, 80.0), (5.0, 90.0)]
    assert figures.front([]) == []


def test_one_picture_per_data_set_and_model(built: Built) -> None:
    names = sorted(path.name for path in built.report.figures)
    assert "cifar10-resnet56.png" in names
    assert "cifar10-resnet56.pdf" in names
    assert len(names) == 8
    assert all((built.out / "figures" / name).stat().st_size > 5000 for name in names)


def test_a_picture_shows_means_with_their_spread(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, seed=seed, dataset="cifar10")
    groups = group(collect(tmp_path).records)
    figure = figures.draw("a $title", groups, ["fpgm"])
    [container] = figure.axes[0].containers
    assert isinstance(container, ErrorbarContainer)
    mean = groups[0].estimate("final.accuracy")
    assert mean is not None
    assert container.lines[0].get_ydata()[0] == pytest.approx(100 * mean.mean)
    [[(_, low), (_, high)]] = container.lines[2][0].get_segments()
    assert (high - low) / 2 == pytest.approx(100 * (mean.sd or 0))


def test_too_many_pictures_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "runs", dataset="digits")
    make(tmp_path / "runs", dataset="cifar10")
    monkeypatch.setattr(figures, "MAX_FIGURES", 1)
    paths, undrawn = figures.write_figures(group(collect(tmp_path / "runs").records), tmp_path / "out")
    assert (len(paths), undrawn) == (2, 1)


def test_the_checks_count_seeds_points_and_baselines(built: Built) -> None:
    table = support.table(group(built.report.collection.records))
    lines = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}
    assert lines["cifar10", "resnet56"][0] == "6"
    # six methods with five budgets each; only the random one has three seeds at each, and the rows of papers do
    assert lines["cifar10", "resnet56"][1] == "8 of 33"
    assert lines["cifar10", "resnet56"][2:4] == ["6 of 6", "both"]
    assert lines["<script>alert(1)</script>", "resnet20"][3] == "no random and no magnitude"
