"""Comparisons of a run with its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prunebench import rows
from prunebench.rows import Row, compare
from prunebench.rows.compare import describe, remarks
from tests.rows.kit import row_of

RESULT: dict[str, Any] = {
    "schema": 1,
    "status": "complete",
    "row": "paper-one",
    "expected": {"id": "paper-one", "changed": []},
    "metrics": {"dense": {"accuracy": 0.931}, "final": {"accuracy": 0.926}},
    "cost": {"dense": {"macs": 1000, "params": 100}, "final": {"macs": 600, "params": 80, "nonzero_params": 80}},
}
PAPER = row_of(reported={"dense_accuracy": 0.93, "accuracy": 0.929, "macs": 595, "macs_removed": 0.405})


def test_a_run_near_its_row() -> None:
    found = compare(RESULT, PAPER)
    assert found["difference"] == pytest.approx(-0.003)
    assert (found["paper"], found["ours"], found["units"], found["refused"]) == (0.929, 0.926, "fraction", None)
    assert found["within_tolerance"] is True
    assert (found["reproduced"], found["failed"]) == (True, [])
    difference = {"difference": pytest.approx(0.001), "checked": True, "why": None}
    assert found["baseline"] == {"paper": 0.93, "ours": 0.931, **difference}
    assert found["others"]["macs"] == {"paper": 595.0, "ours": 600, "difference": 5.0, "units": "count"}
    assert found["others"]["accuracy_drop"]["ours"] == pytest.approx(0.005)


def test_a_run_far_from_its_row() -> None:
    found = compare(RESULT, replace(PAPER, reported={**PAPER.reported, "accuracy": 0.94}))
    assert (found["within_tolerance"], found["reproduced"]) == (False, False)
    assert found["failed"] == ["accuracy -1.40 points, at most 0.50 points allowed"]


@pytest.mark.parametrize("stored", [{"method": {"drawn": 0.93}}, {"method.drawn": 0.93}], ids=["run", "mean"])
def test_the_row_says_which_of_our_numbers_is_the_papers(stored: dict[str, Any]) -> None:
    result = RESULT | {"metrics": {**RESULT["metrics"], "before_cut": stored}}
    found = compare(result, replace(PAPER, measured={"accuracy": "before_cut.method.drawn"}))
    assert (found["ours"], found["difference"]) == (0.93, pytest.approx(0.001))
    assert ("measured", "ours is metrics.before_cut.method.drawn, not that of the final net") in remarks(found)
    both = {"accuracy": "before_cut.method.drawn", "nll": "before_cut.method.drawn"}
    beside = compare(result, replace(PAPER, measured=both, reported={**PAPER.reported, "nll": 0.9}))
    assert beside["others"]["nll"]["ours"] == 0.93
    missing = compare(RESULT, replace(PAPER, measured={"accuracy": "before_cut.method.drawn"}))
    assert missing["ours"] is missing["difference"] is None


def cut_to(**final: float) -> dict[str, Any]:
    return RESULT | {"cost": {**RESULT["cost"], "final": {**RESULT["cost"]["final"], **final}}}


@pytest.mark.parametrize(
    ("reported", "final", "failed"),
    [
        # one point of the dense net is near enough, two are not; 0.405 may have been 0.4054
        ({"macs_removed": 0.405}, {"macs": 605}, []),
        ({"macs_removed": 0.405}, {"macs": 615}, ["MACs removed 38.50 %, in the paper 40.50 %"]),
        ({"macs": 595}, {"macs": 500}, ["MACs 500, in the paper 595"]),
        ({"macs_kept": 0.6}, {"macs": 640}, ["macs kept"]),
        ({"params_removed": 0.2, "macs_removed": 0.4}, {}, []),
        ({"params_removed": 0.3}, {}, ["parameters removed 20.00 %"]),
        # nearly all is gone: a point of the dense net would be twice what the paper leaves
        ({"params_removed": 0.99}, {"params": 2, "nonzero_params": 2}, ["parameters removed 98.00 %"]),
        ({"compression": 50}, {"params": 2, "nonzero_params": 2}, []),
        ({"compression": 50}, {"params": 3, "nonzero_params": 3}, ["compression 33.3333, in the paper 50"]),
        # zeros that are still there count as gone, as papers of single weights do
        ({"params_removed": 0.9}, {"params": 100, "nonzero_params": 10}, []),
        ({"dense_params": 120}, {}, ["dense parameters 100, in the paper 120"]),
        # nothing published, nothing to miss
        ({}, {"macs": 1}, []),
    ],
)
def test_a_reproduction_has_the_published_sizes(
    reported: dict[str, float], final: dict[str, float], failed: list[str]
) -> None:
    row = replace(PAPER, reported={"dense_accuracy": 0.93, "accuracy": 0.929} | reported)
    found = compare(cut_to(**final), row)
    assert len(found["failed"]) == len(failed)
    assert all(words.lower() in text.lower() for words, text in zip(failed, found["failed"], strict=True))
    assert (found["within_tolerance"], found["reproduced"]) == (True, not failed)


def test_sizes_are_compared_as_the_row_counts() -> None:
    """Twice as many operations as MACs; shares of another count are refused, never differenced."""
    flops = replace(
        PAPER, convention="flops_two_per_mac", reported={"accuracy": 0.929, "flops": 1200, "dense_flops": 2000}
    )
    assert compare(RESULT, flops)["reproduced"] is True
    assert compare(RESULT, flops)["others"]["macs_removed"]["ours"] == pytest.approx(0.4)
    unstated = replace(PAPER, convention="unstated")
    found = compare(RESULT, unstated)
    assert not {"macs", "macs_removed"} & found["others"].keys()
    assert found["reproduced"] is False
    assert found["failed"][0] == "MACs not checked: the source does not say what it counts"
    # without a plan nothing is known in a convention that is not ours
    elsewhere = compare(RESULT, replace(PAPER, convention="conv_nominal"))
    assert not {"macs", "macs_removed"} & elsewhere["others"].keys()
    assert "ours is not known as the paper counts" in elsewhere["failed"][0]


def test_a_difference_that_the_row_explains_is_said_and_not_held_against_the_run() -> None:
    row = replace(PAPER, reported={**PAPER.reported, "macs": 624, "macs_removed": 0.4}, macs_note="digits are swapped")
    found = compare(RESULT, row)
    assert found["reproduced"] is True
    assert "  known difference: MACs: digits are swapped" in describe(RESULT, row)
    # the reason is for this slip, not for any run
    assert compare(cut_to(macs=700), row)["reproduced"] is False


def test_weights_and_components_are_counted_where_a_result_has_them() -> None:
    bayes = RESULT | {"budget": {"weights": 90, "weights_live": 30}}
    row = replace(PAPER, reported={"accuracy": 0.929, "params": 30, "sparsity": 2 / 3, "compression": 3})
    assert compare(bayes, row)["failed"] == []
    gated = RESULT | {"budget": {"gated_params": 50, "kept_params": 10}}
    assert compare(gated, replace(PAPER, reported={"accuracy": 0.929, "sparsity": 0.8}))["failed"] == []


@pytest.mark.parametrize(
    ("change", "row", "reason"),
    [
        ({"metrics": {"dense": {"accuracy": 0.92}, "final": {"accuracy": 0.926}}}, PAPER, "our dense net has 92.00 %"),
        ({"expected": {"changed": ["schedule.phases.train.epochs=1"]}}, PAPER, "other settings than the row: schedule"),
        ({"row": "paper-two"}, PAPER, "the run is of paper-two, not of paper-one"),
        ({"status": "failed", "error": "loss"}, PAPER, "the run failed: loss"),
        (
            {"status": "missed_target", "budget": {"target": 0.5, "reached": 0.61}},
            PAPER,
            "the run missed its own target: 0.5 asked for, 0.61 reached",
        ),
        ({"status": "missed_target"}, PAPER, "the run missed its own target"),
        ({}, replace(PAPER, kind="quoted"), "quotes another method"),
        ({}, replace(PAPER, reported={"macs": 59}), "gives no accuracy"),
    ],
)
def test_refused(change: dict[str, Any], row: Row, reason: str) -> None:
    found = compare(RESULT | change, row)
    assert reason in found["refused"]
    assert found["difference"] is None
    assert found["within_tolerance"] is None


def test_a_baseline_from_another_run() -> None:
    """A run that trains and prunes at once has no dense net; without one the baseline is not checked."""
    alone = {**RESULT, "metrics": {"final": {"accuracy": 0.926}}}
    assert compare(alone, PAPER)["baseline"]["checked"] is False
    assert compare(alone, PAPER)["refused"] is None
    assert "  baseline not checked: there is no dense net of ours" in describe(alone, PAPER)
    assert not any("baseline" in line for line in describe(RESULT, PAPER))
    silent = replace(PAPER, reported={"accuracy": 0.929})
    assert "  baseline not checked: the paper gives no accuracy of its dense net" in describe(alone, silent)
    assert "our dense net has 91.00 %" in compare(alone, PAPER, own_dense=0.91)["refused"]


def test_the_seeds_behind_a_verdict_are_named() -> None:
    assert "  reproduced: 1 seed, a claim needs 3" in describe(RESULT, PAPER)
    assert remarks(compare(RESULT, PAPER, num_seeds=3))[0] == ("reproduced", "3 seeds")
    far = replace(PAPER, reported={"dense_accuracy": 0.93, "accuracy": 0.95})
    assert "  not reproduced: accuracy -2.40 points, at most 0.50 points allowed (1 seed)" in describe(RESULT, far)


def test_a_number_that_was_selected_on_the_test_set_is_called_so() -> None:
    """Papers that printed the epoch that was best on the test set, as their rows' deviations say."""
    papers = {row.paper for row in rows.load() if row.selection}
    assert papers >= {"dcff", "fpgm", "l1norm", "rethinking", "soft_filter_pruning"}
    found = compare(RESULT, replace(PAPER, selection="best_test"))
    assert "best on the test set, ours that of the last epoch" in found["selection"]
    assert any(
        line.startswith("  selection: the paper's number")
        for line in describe(RESULT, replace(PAPER, selection="best_test"))
    )
    assert compare(RESULT, PAPER)["selection"] is None


def test_a_dense_row_is_compared_by_its_own_accuracy() -> None:
    dense = row_of(kind="baseline", reported={"dense_accuracy": 0.93})
    assert compare(RESULT, dense)["difference"] == pytest.approx(-0.004)


def test_a_language_model_is_compared_by_its_bits_per_character() -> None:
    row = row_of(reported={"bpc": 1.19, "params": 80})
    run = RESULT | {"metrics": {"dense": {"bpc": 1.1}, "final": {"bpc": 1.195, "nll": 0.83}}}
    found = compare(run, row)
    assert (found["metric"], found["paper"], found["ours"], found["units"]) == (
        "bpc",
        1.19,
        1.195,
        "bits per character",
    )
    assert found["difference"] == pytest.approx(0.005)
    assert found["within_tolerance"] is True
    assert found["reproduced"] is True
    assert compare(RESULT, row)["refused"] == "the run has no final bpc"
    dense = compare(run, replace(row, dense={"bpc": 1.15}))
    assert dense["refused"] == "our dense net has 1.1, the paper's 1.15: more than 0.01 apart"


def test_a_finished_run_says_what_its_row_says() -> None:
    head, accuracy, *others = describe(RESULT, PAPER)
    assert head.startswith("row paper-one: ") and PAPER.mark in head
    assert "accuracy: paper 92.90 %, ours 92.60 %, difference -0.30 points, within the tolerance of 0.50 %" in accuracy
    assert "  MACs removed: paper 40.50 %, ours 40.00 %, difference -0.50 points" in others
    assert "  MACs: paper 595, ours 600, difference +5" in others
    _, refused, *others = describe(RESULT | {"expected": {"changed": ["seed=1"]}}, PAPER)
    assert "  MACs: paper 595, ours 600" in others
    assert "difference is given: the run has other settings than the row: seed=1" in refused
    assert "difference -" not in refused


def test_an_attack_and_what_a_method_reports_stand_beside_the_published_values() -> None:
    paper = row_of(
        reported={
            "accuracy": 0.929, "adversarial_accuracy_white": 0.5, "vulnerability_white": 0.02,
            "adversarial_accuracy_black": 0.7, "speedup": 2.5, "memory_kept": 0.2, "sparsity": 0.75,
        }
    )  # fmt: skip
    robust = {"accuracy": 0.45, "vulnerability": 0.03, "attack": {"access": "white_box"}}
    final = {"accuracy": 0.926, "robust": robust, "method": {"speedup": 2.25, "memory_kept": 0.25, "active": {"fc": 1}}}
    result = RESULT | {"metrics": {"final": final}, "budget": {"gated_units": 1000, "kept_units": 250}}
    ours = {name: value["ours"] for name, value in compare(result, paper)["others"].items()}
    assert ours == {
        "adversarial_accuracy_white": 0.45, "vulnerability_white": 0.03, "speedup": 2.25, "memory_kept": 0.25,
        "sparsity": 0.75,
    }  # fmt: skip
    black = {"robust": robust | {"attack": {"access": "black_box"}}, "accuracy": 0.926}
    ours = compare(RESULT | {"metrics": {"final": black}}, paper)["others"]
    assert ours["adversarial_accuracy_black"]["difference"] == pytest.approx(-0.25)
    assert "adversarial_accuracy_white" not in ours
