"""Ours beside the paper's: every cell with its provenance, every row with its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunebench.report.collect import collect
from prunebench.report.configurations import failures, group
from prunebench.report.paper_table import STATES
from prunebench.report.papers import View, overview, rows_run, totals, views
from prunebench.report.summaries import configurations
from prunebench.report.tables import Cell, to_markdown
from prunebench.report.values import form, ours
from prunebench.rows import find, load_papers
from tests.report.conftest import Built
from tests.report.factory import make


@pytest.fixture(scope="module")
def everything() -> list[View]:
    return views(load_papers(), [])


def of(built: Built) -> dict[str, View]:
    records = built.report.collection.records
    found = views(load_papers(papers=["fpgm", "l1norm"]), group(records), failures(records))
    return {view.paper.name: view for view in found}


def test_every_published_cell_of_every_paper_is_marked(everything: list[View]) -> None:
    cells = 0
    for view in everything:
        for table, _ in view.tables:
            for row in table.rows:
                for column, cell in zip(table.columns, row, strict=True):
                    if column.title == "paper" and cell.value is not None:
                        cells += 1
                        assert cell.mark, (view.paper.name, table.title, cell.text)
    assert cells > 1000


def test_values_from_memory_say_so(everything: list[View]) -> None:
    shown = {
        cell.mark for view in everything for table, _ in view.tables for row in table.rows for cell in row if cell.mark
    }
    recalled = {row.confidence for view in everything for row in view.paper.rows if row.source == "recall"}
    assert recalled == {"high", "medium", "low"}
    assert {"Mh", "Mm", "Ml"} <= shown
    for view in everything:
        titles = [table.title.removeprefix(f"{view.paper.name}: ") for table, _ in view.tables]
        rows = [line.row for title in titles for line in view.lines if line.row.table == title]
        cells = [line for table, _ in view.tables for line in table.rows]
        for row, line in zip(rows, cells, strict=True):
            marks = {cell.mark[0] for cell in line if cell.mark}
            assert marks <= {{"official-repo": "R", "secondary": "S", "abstract": "A", "recall": "M"}[row.source]}


def test_without_runs_rows_wait_are_pending_or_quoted(everything: list[View]) -> None:
    counts = totals(everything)
    assert counts["reproduced"] == counts["run"] == 0
    assert sum(counts.values()) == sum(len(row.parts) for view in everything for row in view.paper.rows)
    for view in everything:
        for line in view.lines:
            assert (line.state == "quoted") == (line.row.kind == "quoted")


def test_states_of_rows_with_runs(built: Built) -> None:
    lines = {line.row.name: line for view in of(built).values() for line in view.lines}
    near, far = lines["l1norm-t1_resnet56_a"], lines["l1norm-t1_resnet56_b"]
    assert (near.state, far.state) == ("reproduced", "run")
    assert near.group is not None
    assert near.found is not None
    mean = near.group.estimate("final.accuracy")
    assert mean is not None
    assert near.found["difference"] == pytest.approx(mean.mean - 0.931)
    assert abs(near.found["difference"]) <= near.row.tolerance
    assert near.found["seeds"] == 3


def state_of(view: View, name: str) -> Cell:
    [row] = [row for table, _ in view.tables for row in table.rows if row[0].below == name]
    return row[1]


def test_the_seeds_of_a_reproduction_are_shown(built: Built, tmp_path: Path) -> None:
    assert state_of(of(built)["l1norm"], "l1norm-t1_resnet56_a").below.startswith("3 seeds, ")
    row: Any = {"id": "l1norm-t1_resnet56_a", "changed": []}
    make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", ratio=0.08, schedule="finetune", row=row)
    [view] = views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records))
    cell = state_of(view, row["id"])
    assert cell.text == "reproduced"
    assert cell.below.startswith("1 seed, a claim needs 3, ")


def test_a_run_of_another_size_reproduces_nothing(tmp_path: Path) -> None:
    """As accurate as the paper's net, but with fewer filters removed; what fails is said in cell and note."""
    row: Any = {"id": "l1norm-t1_resnet56_a", "changed": []}
    make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", ratio=0.04, schedule="finetune", row=row)
    [view] = views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records))
    cell = state_of(view, row["id"])
    assert cell.text == "run, not reproduced"
    assert "MACs 1.21873e+08, in the paper 1.12e+08" in cell.note
    notes = [note for table, _ in view.tables for note in table.notes]
    assert any(note.startswith("Not reproduced for l1norm-t1_resnet56_a: MACs") for note in notes)


def test_one_seed_that_missed_its_target_spoils_the_row(tmp_path: Path) -> None:
    row: Any = {"id": "l1norm-t1_resnet56_a", "changed": []}
    where: Any = {"model": "resnet56", "dataset": "cifar10", "schedule": "finetune"}
    for seed, status in enumerate(("complete", "complete", "missed_target")):
        make(tmp_path, method="l1norm", ratio=0.08, seed=seed, status=status, row=row, **where)
    [view] = views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records))
    assert state_of(view, row["id"]).text == "run, not reproduced"
    notes = [note for table, _ in view.tables for note in table.notes]
    assert "Difference refused for l1norm-t1_resnet56_a: the run missed its own target" in notes


def test_a_difference_without_a_dense_net_of_ours_says_so(tmp_path: Path) -> None:
    row: Any = {"id": "l1norm-t1_resnet56_a", "changed": []}
    folder = make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", ratio=0.08, row=row)
    result = json.loads((folder / "result.json").read_text())
    del result["metrics"]["dense"]
    (folder / "result.json").write_text(json.dumps(result))
    [view] = views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records))
    [(table, _)] = [found for found in view.tables if any(line[0].below == row["id"] for line in found[0].rows)]
    line = next(line for line in table.rows if line[0].below == row["id"])
    cell = dict(zip([column.name for column in table.columns], line, strict=True))["accuracy_difference"]
    assert (cell.below, cell.note) == ("baseline not checked", "there is no dense net of ours")
    assert any(note.startswith("Baseline not checked for l1norm-t1_resnet56_a") for note in table.notes)


def test_a_failed_run_stands_beside_its_row_with_its_error(built: Built, tmp_path: Path) -> None:
    records = built.report.collection.records
    [view] = views(load_papers(papers=["l1norm"]), group(records), failures(records))
    cell = state_of(view, "l1norm-t1_vgg16_a")
    assert (cell.text, cell.note) == ("failed", "the loss is not finite in phase finetune, epoch 3")
    notes = [note for table, _ in view.tables for note in table.notes]
    assert "Failed for l1norm-t1_vgg16_a seed 0: the loss is not finite in phase finetune, epoch 3" in notes
    assert "l1norm-t1_vgg16_a" in {row[0].below for row in rows_run([view])[0].rows}
    # beside seeds that ended well it is counted
    where: Any = {"method": "l1norm", "model": "resnet56", "dataset": "cifar10", "ratio": 0.08, "schedule": "finetune"}
    row: Any = {"id": "l1norm-t1_resnet56_a", "changed": []}
    make(tmp_path, row=row, **where)
    make(tmp_path, row=row, seed=1, status="failed", **where)
    records = collect(tmp_path).records
    [view] = views(load_papers(papers=["l1norm"]), group(records), failures(records))
    assert state_of(view, row["id"]).below.endswith(", 1 failed")


def test_a_difference_is_refused_where_the_dense_nets_differ(built: Built) -> None:
    view = of(built)["fpgm"]
    [line] = [line for line in view.lines if line.row.name == "fpgm-t1_resnet20_only40"]
    assert line.state == "run"
    table, states = view.tables[0]
    row = next(row for row in table.rows if row[0].below == line.row.name)
    cells = dict(zip([column.name for column in table.columns], row, strict=True))
    assert cells["accuracy_difference"].text == "refused"
    assert "our dense net has 93.39 %, the paper's 92.20 %" in cells["accuracy_difference"].note
    assert any(note.startswith("Difference refused for fpgm-t1_resnet20_only40: our dense net") for note in table.notes)
    assert len(states) == len(table.rows)


def test_a_changed_run_is_never_a_reproduction(tmp_path: Path) -> None:
    row = {"id": "l1norm-t1_resnet56_a", "changed": ["schedule.phases.finetune.epochs=1"]}
    make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", ratio=0.1, schedule="finetune", row=row)
    [view] = views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records))
    assert view.counts["reproduced"] == 0
    assert (view.counts["run"], view.counts["changed"]) == (0, 1)
    assert any("other settings than the row" in note for table, _ in view.tables for note in table.notes)


def test_a_run_cannot_claim_a_quoted_row(tmp_path: Path) -> None:
    quoted = find("fpgm-t1_resnet20_sfp_30")
    make(tmp_path, dataset="cifar10", schedule="finetune", row={"id": quoted.name, "changed": []})
    [view] = views(load_papers(papers=["fpgm"]), group(collect(tmp_path).records))
    assert not view.has_runs


def test_latency_and_both_sizes_stand_beside_every_run(built: Built) -> None:
    for view in of(built).values():
        for table, states in view.tables:
            names = {column.name for column in table.columns}
            if {"run", "reproduced"} & set(states):
                assert {"macs_removed_ours", "params_removed_ours", "batch_1_ms", "speedup_batch_1"} <= names
            else:
                assert not any(name.endswith("_ours") for name in names)


def test_the_bars_are_shares_of_the_rows_that_are_not_quoted(built: Built) -> None:
    view = of(built)["fpgm"]
    assert view.total == len(view.lines) - sum(line.row.kind == "quoted" for line in view.lines)
    assert [bar["width"] for bar in view.bars] == [
        pytest.approx(100 * view.counts[state] / view.total, abs=0.01)
        for state in ("reproduced", "run", "changed", "failed", "ready")
    ]
    [line] = overview([view]).rows
    assert [cell.value for cell in line[4:]] == [view.counts[state] for state in STATES]


def test_rows_with_runs_stand_in_one_table(built: Built) -> None:
    table, states = rows_run(list(of(built).values()))
    assert sorted(states) == ["failed", "reproduced", "run", "run", "run"]
    names = [column.name or column.title for column in table.columns]
    by_row = {row[0].below: dict(zip(names, row, strict=True)) for row in table.rows}
    assert by_row["fpgm-t1_resnet20_only40"]["accuracy_difference"].text == "refused"
    line = by_row["l1norm-t1_resnet56_a"]
    assert (line["accuracy_paper"].text, line["accuracy_paper"].mark) == ("93.10", "S")
    assert line["accuracy_ours"].mark == "K"
    assert line["Row"].text == "l1norm, Table 1: pruned-A"
    assert all(line[name].value is not None for name in ("macs_removed_ours", "params_removed_ours", "ece_ours"))


def test_computed_values_of_ours(tmp_path: Path) -> None:
    folder = make(tmp_path, ratio=0.4)
    result = json.loads((folder / "result.json").read_text())
    [found] = group(collect(tmp_path).records)

    def mean(key: str) -> float:
        value = ours(found, key)
        assert value is not None
        return value.mean

    dense, final = (result["metrics"][stage]["accuracy"] for stage in ("dense", "final"))
    assert mean("accuracy_drop") == pytest.approx(dense - final)
    assert mean("flops") == 2 * result["cost"]["final"]["macs"]
    assert mean("macs_kept") == pytest.approx(result["cost"]["final"]["macs"] / result["cost"]["dense"]["macs"])
    assert ours(found, "latency_ms") is None  # the paper's machine is not ours


def test_more_parameters_than_the_dense_net_are_explained(tmp_path: Path) -> None:
    """A Bayesian net has a mean and a spread for each weight: −100 % are removed."""
    row = {"id": "l1norm-t1_resnet56_a", "changed": []}
    folder = make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", ratio=0.08, row=row)
    quiet = rows_run(views(load_papers(papers=["l1norm"]), group(collect(tmp_path).records)))[0]
    assert "Params removed is below 0" not in to_markdown(quiet)
    result = json.loads((folder / "result.json").read_text())
    result["cost"]["final"]["params"] = 2 * result["cost"]["dense"]["params"]
    result["cost"]["params_removed"] = -1.0
    (folder / "result.json").write_text(json.dumps(result))
    groups = group(collect(tmp_path).records)
    table = rows_run(views(load_papers(papers=["l1norm"]), groups))[0]
    assert "−100.0" in to_markdown(table)
    [note] = [note for note in table.notes if "below 0" in note]
    assert note.startswith("Params removed is below 0 for l1norm-t1_resnet56_a: the final net has more parameters")
    assert any("below 0 for l1norm on resnet56: " in note for note in configurations(groups).notes)


def test_forms() -> None:
    assert form("accuracy", 0.9344, 0.0031) == "93.44 ± 0.31"
    assert form("accuracy_drop", -0.0006) == "−0.06"
    assert form("macs_removed", 0.526) == "52.6"
    assert [form("params", value) for value in (853_018, 21_600_000, 3_640_000_000, 266)] == [
        "853.02 K",
        "21.60 M",
        "3.64 G",
        "266",
    ]
    assert form("speedup", 2.5) == "2.5"
