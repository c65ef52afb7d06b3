"""The page's picture of sensitivity: places computed by hand, and files of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunebench.report import build
from prunebench.report.sensitivities import read


def row(layer: str, kept: int, **changed: Any) -> dict[str, Any]:
    facts = {"accuracy": 0.8, "loss": 0.1, "macs": 0.9, "time": 0.75, "num_layers": 1, "channels": 16}
    return {"layer": layer, "kept": kept, **facts, **changed}


def stored(root: Path, widths: Any, *, name: str = "l1norm-resnet20-cifar10", title: Any = "a net") -> Path:
    folder = root / "sensitivity" / name
    folder.mkdir(parents=True)
    (folder / "sensitivity.json").write_text(json.dumps({"title": title, "widths": widths}))
    return root / "sensitivity"


def test_places_follow_from_channels_and_shares(tmp_path: Path) -> None:
    widths = [row("conv", 4, accuracy=0.2, time=0.5), row("conv", 8, accuracy=0.6), row("conv", 16, time=1.0)]
    [found], left_out = read(stored(tmp_path, widths))
    assert left_out == []
    assert (found.title, found.dense) == ("a net", 0.8)
    [curve] = found.curves
    # x = 120 kept / 16; y = 60 (1 - share): accuracy shares 1, .75, .25, times 1, .75, .5
    assert curve.accuracy == "120.0,0.0 60.0,15.0 30.0,45.0"
    assert curve.time == "120.0,0.0 60.0,15.0 30.0,30.0"
    assert curve.lost == pytest.approx(20.0)
    assert curve.saved == pytest.approx(0.25)
    assert curve.told[1] == "8 of 16 channels: accuracy 60.00 %, time 75.0 %, MACs 90.0 % of the dense net's"


def test_an_absent_folder_holds_nothing(tmp_path: Path) -> None:
    assert read(None) == ([], [])
    assert read(tmp_path / "sensitivity") == ([], [])


@pytest.mark.parametrize(
    ("widths", "named"),
    [
        ([], "empty"),
        ("text", "list of objects"),
        ([row("a", 8)], "whole net"),
        ([row("a", 16, accuracy="high")], "accuracy"),
        ([row("a", 16, accuracy=float("nan"))], "accuracy"),
        ([row("a", 16, accuracy=80.0)], "share"),
        ([row("a", 16), row("a", 0)], "between 1"),
        ([row("a", 16), row("a", 99)], "between 1"),
        ([row("a", 16, time=None)], "time"),
        ([row(str(n), 16) for n in range(401)], "401 layers"),
    ],
)
def test_what_cannot_be_drawn_is_listed(tmp_path: Path, widths: Any, named: str) -> None:
    found, [left_out] = read(stored(tmp_path, widths))
    assert found == []
    assert left_out.place == "sensitivity/l1norm-resnet20-cifar10/sensitivity.json"
    assert named in left_out.reason


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"widths": [' + b"[" * 100_000])
def test_a_broken_file_is_listed(tmp_path: Path, content: bytes) -> None:
    folder = stored(tmp_path, [row("a", 16)])
    (folder / "l1norm-resnet20-cifar10" / "sensitivity.json").write_bytes(content)
    found, left_out = read(folder)
    assert (found, len(left_out)) == ([], 1)


def test_the_page_shows_it_and_escapes_its_names(tmp_path: Path) -> None:
    folder = stored(tmp_path, [row("<script>layer", 8), row("<script>layer", 16)], title="<b>mine")
    (tmp_path / "runs").mkdir()
    report = build(tmp_path / "runs", tmp_path / "out", sensitivity=folder, pictures=False)
    page = report.page.read_text(encoding="utf-8")
    assert 'href="#sensitivity"' in page
    assert "&lt;script&gt;layer" in page
    assert "<script>layer" not in page
    assert "<b>mine" not in page
    assert 'points="120.0,0.0 60.0,0.0"' in page
