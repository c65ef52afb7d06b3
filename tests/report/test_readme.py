"""README's tables are what the published runs give, and nothing else writes between the markers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prunebench.errors import UserError
from prunebench.report.readme import made, render, write
from prunebench.rows import load, load_papers
from tests.report.factory import make
from tests.report.test_published import store

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "outputs" / "published"
TEXT = "before\n<!-- results:begin {0} -->\nold\n<!-- results:end {0} -->\nafter\n"


@pytest.mark.parametrize("name", ["README.md", "prunebench/methods/README.md"])
def test_it_shows_the_published_runs(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert render(text, made(STORE, load_papers())) == text, f"run python scripts/report.py --readme {name}"


def test_a_table_has_one_line_per_method_and_one_column_per_setting(tmp_path: Path) -> None:
    for method, ratio, seeds in (("fpgm", 0.3, 1), ("fpgm", 0.5, 1), ("random", 0.3, 3)):
        for seed in range(seeds):
            store(make(tmp_path / "runs", method=method, ratio=ratio, seed=seed), tmp_path / "published")
    readme = tmp_path / "README.md"
    readme.write_text(TEXT.format("digits-oneshot"))
    assert write(readme, tmp_path / "published", []) == ["digits-oneshot"]
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after") and "old" not in lines
    assert "; 5 runs. Dense: resnet20 97.20." in lines[2]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[0] for row in table[2:]] == ["fpgm", "random"]
    assert " ± " in table[3][1] and " ± " not in table[2][1]
    assert [cell == "–" for cell in table[3][1:]] == [False, True]
    once = readme.read_bytes()
    write(readme, tmp_path / "published", [])
    assert readme.read_bytes() == once


def test_two_configurations_in_one_place_are_refused(tmp_path: Path) -> None:
    def edit(result: dict[str, Any]) -> None:
        result["run"]["id"] = "another"

    folder = make(tmp_path / "runs")
    store(folder, tmp_path / "published")
    store(folder, tmp_path / "published" / "second", edit)
    with pytest.raises(UserError, match="two configurations have one place in a table: fpgm resnet20"):
        made(tmp_path / "published", [])["digits-oneshot"]()


def test_rows_of_papers_stand_in_their_own_table(tmp_path: Path) -> None:
    store(make(tmp_path / "runs", row={"id": "fpgm-t1_resnet20_only40"}), tmp_path / "published")
    found = made(tmp_path / "published", load_papers(papers=["fpgm"]))
    assert list(found) == ["rows", "claims", "int8", "one-word"]
    assert "fpgm" in found["rows"]() and "|---" in found["rows"]()
    states = [row.status for row in load(papers=["fpgm"])]
    assert found["rows"]().startswith(f"Of {len(states)} rows of 1 papers {states.count('runnable')} can be run")


def test_what_is_open_is_said(tmp_path: Path) -> None:
    for method in ("fpgm", "random"):
        store(make(tmp_path / "runs", method=method), tmp_path / "published")
    tables = made(tmp_path / "published", [])
    assert "The tests leave it open" in tables["claims"]()
    assert "1 pairs at equal MACs tested, open: 1 (fewer than 3 nets of each).\n" in tables["claims"]()
    store(make(tmp_path / "runs", method="lamp", more={"scope": "global"}), tmp_path / "published")
    apart = "Not compared: 2 pairs that differ in layers, coupling or scope."
    assert apart in made(tmp_path / "published", [])["claims"]()
    assert made(tmp_path / "published", [])["rows"]().endswith("\n\nNo row of a paper has been published yet.\n")


def test_a_claim_says_what_its_numbers_are(tmp_path: Path) -> None:
    for method in ("fpgm", "random"):
        for seed in range(3):
            store(make(tmp_path / "runs", method=method, ratio=0.5, seed=seed), tmp_path / "published")
    line, empty, rule = made(tmp_path / "published", [])["claims"]().splitlines()
    assert (
        re.fullmatch(r"- resnet20 on digits, .*: fpgm is better than random \(\+\d+\.\d ± \d+\.\d\)", line)
        and not empty
    )
    assert rule == (
        "1 pairs at equal MACs tested. In brackets: points of accuracy, mean of the differences of equal seeds ± their "
        "sample standard deviation."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no markers\n", "needs its"),
        ("<!-- results:begin claims -->\n", "needs its"),
        ("<!-- results:begin claims -->\n<!-- results:end rows -->\n", "needs its"),
        (TEXT.format("claim"), "no table is called claim; .*did you mean claims"),
    ],
)
def test_wrong_markers_are_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    (tmp_path / "published").mkdir()
    with pytest.raises(UserError, match=reason):
        write(readme, tmp_path / "published", [])
    assert readme.read_text() == text


def test_methods_with_one_word_stand_in_one_table(tmp_path: Path) -> None:
    def said(*words: str) -> Any:
        def edit(result: dict[str, Any]) -> None:
            result["run"]["command"] = " ".join(("python -m prunebench", *words))

        return edit

    for method, words in (
        ("fpgm", ("method=fpgm", "latency=false", "trainer.num_threads=1")),
        ("random", ("method=random", "method.prune_ratio=0.2")),
        ("l1norm", ("model=resnet56",)),
    ):
        store(make(tmp_path / "runs", method=method), tmp_path / "published", said(*words))
    table = made(tmp_path / "published", [])["one-word"]()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    assert [line[0] for line in lines[2:]] == ["fpgm"]
    shown = dict(zip(lines[0], lines[2], strict=True))
    assert shown["Schedule"] == "oneshot" and shown["Dense %"] == "97.20" and shown["BPC"] == "–"


def test_nets_in_integers_stand_in_their_own_table(tmp_path: Path) -> None:
    def quantised(result: dict[str, Any]) -> None:
        for stage, whole in (("dense_quantized", "dense"), ("quantized", "final")):
            result["metrics"][stage] = {**result["metrics"][whole], "accuracy": 0.875}
            result["cost"][stage] = {"float32_file_bytes": 400_400, "file_bytes": 100_600}

    store(make(tmp_path / "runs", method="fpgm"), tmp_path / "published", quantised)
    store(make(tmp_path / "runs", method="random"), tmp_path / "published")
    tables = made(tmp_path / "published", [])
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in tables["int8"]().splitlines() if "|" in line
    ]
    assert [line[2] for line in lines[2:]] == ["fpgm"]
    assert lines[2][3:7:3] == ["97.20", "87.50"] and lines[2][4] == "87.50"
    assert lines[2][8:] == ["400", "101", "400", "101"]
    assert "fpgm" not in tables["digits-oneshot"]()
