"""Exact tests at equal budgets, one adjustment for all of them, and ranks that say what they leave open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import scipy.stats

from prunebench.measure.statistics import paired_difference
from prunebench.report import leagues as module
from prunebench.report.collect import collect
from prunebench.report.configurations import group
from prunebench.report.contests import claims, matrices, rank_grids
from prunebench.report.leagues import Family, families
from prunebench.report.pairs import read_correct
from prunebench.report.predictions import Correct
from prunebench.report.record import Record
from tests.report.factory import make


def test_the_interval_from_counts_is_that_of_resampled_examples() -> None:
    assert paired_difference(120, 90, 10_000).interval == pytest.approx((0.0002, 0.0059), abs=2e-4)
    differences = np.array([1] * 120 + [-1] * 90 + [0] * 390)
    peer = scipy.stats.bootstrap(
        (differences,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(3)
    )
    assert paired_difference(120, 90, 600).interval == pytest.approx(tuple(peer.confidence_interval), abs=0.006)


def outcomes(**right: int) -> Callable[[Record], Correct]:
    """A loader in which a method is right on the first ``n`` of 1,000 examples."""

    def load(record: Record) -> Correct:
        return np.arange(1000) < right[record.method]

    return load


def compared(root: Path, load: Callable[[Record], Correct] | None = None) -> list[Family]:
    return families(group(collect(root).records), load)[0]


def test_a_hand_example(tmp_path: Path) -> None:
    for method in ("fpgm", "l1norm", "random"):
        make(tmp_path, method=method, ratio=0.3)
    [family] = compared(tmp_path, outcomes(fpgm=906, l1norm=900, random=800))
    [budget] = family.budgets
    pairs = {(p.first.first.method, p.second.first.method): p for p in budget.pairs}
    close = pairs["fpgm", "l1norm"]
    assert (close.b, close.c, close.n) == (6, 0, 1000)
    assert close.difference == 0.006
    # two-sided binomial, 6 of 6: 2 / 2**6; the largest p of three keeps its value in Holm's order
    assert close.p == close.p_holm == 0.03125
    far = pairs["fpgm", "random"]
    assert (far.b, far.c) == (106, 0)
    assert far.p_holm == pytest.approx(3 * 2 / 2**106)
    assert pairs["l1norm", "random"].p_holm == pytest.approx(2 * 2 / 2**100)


def test_holm_covers_all_budgets_of_a_family(tmp_path: Path) -> None:
    for ratio in (0.1, 0.3, 0.5):
        for method in ("fpgm", "l1norm"):
            make(tmp_path, method=method, ratio=ratio)
    [family] = compared(tmp_path, outcomes(fpgm=906, l1norm=900))
    assert [len(budget.pairs) for budget in family.budgets] == [1, 1, 1]
    # three equal p-values of 1/32 are all adjusted to 3/32, which decides nothing
    assert all(pair.p_holm == 0.09375 for budget in family.budgets for pair in budget.pairs)
    assert not any(pair.decided for budget in family.budgets for pair in budget.pairs)


def test_ranks_say_what_is_open(tmp_path: Path) -> None:
    for method in ("fpgm", "l1norm", "random"):
        for seed in range(3):
            make(tmp_path, method=method, ratio=0.3, seed=seed)
    [family] = compared(tmp_path, outcomes(fpgm=902, l1norm=900, random=700))
    # differences of equal seeds have the sign of the stored accuracies, which the factory orders in the same way
    ranks = {rank.group.first.method: (rank.best, rank.worst) for rank in family.budgets[0].ranks}
    assert ranks["random"] == (3, 3)
    assert ranks["fpgm"] == ranks["l1norm"] == (1, 2)
    # 2 of 2 examples are 2 / 2**2; 202 and 200 of them decide
    over_seeds = {method: gaps(tmp_path, method, "random") for method in ("fpgm", "l1norm")}
    shown = {name: f"(+{100 * mean(found):.1f} ± {100 * stdev(found):.1f})" for name, found in over_seeds.items()}
    assert [text.partition(": ")[2] for text in claims([family])] == [
        f"fpgm is better than random {shown['fpgm']}; l1norm than random {shown['l1norm']}",
    ]


def gaps(root: Path, first: str, second: str) -> list[float]:
    """Differences of the stored accuracies of equal seeds, read from the results."""
    found: dict[tuple[str, int], float] = {}
    for path in root.rglob("result.json"):
        result = json.loads(path.read_text())
        found[result["method"]["name"], result["run"]["seed"]] = result["metrics"]["final"]["accuracy"]
    seeds = sorted(seed for method, seed in found if method == first)
    return [found[first, seed] - found[second, seed] for seed in seeds if (second, seed) in found]


def store(root: Path, method: str, accuracies: list[float], **where: Any) -> None:
    """Runs with these accuracies, one a seed."""
    for seed, accuracy in enumerate(accuracies):
        path = make(root, method=method, ratio=0.3, seed=seed, **where) / "result.json"
        result = json.loads(path.read_text())
        result["metrics"]["final"]["accuracy"] = accuracy
        path.write_text(json.dumps(result))


@pytest.mark.parametrize(
    "of_first",
    [[0.90, 0.91, 0.92], [0.90, 0.61, 0.62], [0.90, 0.71, 0.65], [0.90, 0.85, 0.80, 0.75], [0.59, 0.9, 0.9], [0.6] * 3],
)
def test_a_claim_needs_a_difference_over_seeds_that_students_test_tells_from_none(
    tmp_path: Path, of_first: list[float]
) -> None:
    of_second = [0.60, 0.60, 0.61, 0.59][: len(of_first)]
    store(tmp_path, "fpgm", of_first)
    store(tmp_path, "random", of_second)
    [family] = compared(tmp_path, outcomes(fpgm=902, random=700))
    [pair] = family.budgets[0].pairs
    found = [a - b for a, b in zip(of_first, of_second, strict=True)]
    peer = scipy.stats.ttest_1samp(found, 0.0)
    assert pair.over_seeds.interval == pytest.approx(tuple(peer.confidence_interval(0.95)))
    assert pair.decided == (peer.pvalue < 0.05 and len({gap > 0 for gap in found}) == 1)
    if pair.decided:
        assert f"(+{100 * mean(found):.1f} ± {100 * stdev(found):.1f})" in claims([family])[0]
    else:
        assert claims([family]) == []
        assert pair.open_because in ("the sign depends on the seed", "the t interval over seeds holds 0")


def test_the_matrix_says_what_the_claim_says(tmp_path: Path) -> None:
    """The lowest seed has another difference than the mean, which both show."""
    store(tmp_path, "fpgm", [0.90, 0.85, 0.80])
    store(tmp_path, "random", [0.60, 0.60, 0.60])
    found = compared(tmp_path, outcomes(fpgm=902, random=600))
    assert "fpgm is better than random (+25.0 ± 5.0)" in claims(found)[0]
    [matrix] = matrices(found)[0]["budgets"]
    assert matrix["names"] == ["fpgm", "random"]
    (_, [_, ahead]), (_, [behind, _]) = matrix["rows"]
    assert (ahead["text"], behind["text"]) == ("+25.00 ▲", "−25.00 ▼")
    low, high = (f"{100 * end:.2f}" for end in scipy.stats.t.interval(0.95, 2, 0.25, 0.05 / 3**0.5))
    assert f"mean over 3 nets of each with equal seeds ± 5.00, 95 % t interval +{low} to +{high};" in ahead["note"]
    assert f"interval −{high} to −{low};" in behind["note"]
    assert "seed 0: +30.20, 302 examples right only here, 0 only there" in ahead["note"]


def strata(root: Path, **chosen: dict[str, str]) -> list[Family]:
    for method, more in chosen.items():
        store(root, method, [{"random": 0.6}.get(method, 0.9)] * 3, more=more)
    return compared(root, lambda record: np.arange(1000) < (600 if record.method == "random" else 900))


def test_methods_that_may_cut_other_layers_are_not_compared_but_counted(tmp_path: Path) -> None:
    found = strata(
        tmp_path,
        bn_scale={"layers": "interior", "scope": "layer"},
        fpgm={"layers": "all", "scope": "layer"},
        lamp={"layers": "all", "scope": "global"},
        group_norm={"layers": "all", "scope": "global", "coupling": "aligned"},
        random={"layers": "all", "scope": "layer"},
    )
    [budget] = found[0].budgets
    assert [(pair.first.first.method, pair.second.first.method) for pair in budget.pairs] == [("fpgm", "random")]
    assert budget.apart == 9  # of 5 * 4 / 2
    assert budget.pairs[0].p_holm == budget.pairs[0].p  # Holm's adjustment is over what is tested
    [claim] = claims(found)
    assert claim.endswith(
        "fpgm is better than random (+30.0 ± 0.0). Not compared: 9 pairs that differ in layers, coupling or scope"
    )
    open_places = {rank.group.first.method: (rank.best, rank.worst) for rank in budget.ranks}
    assert open_places == {
        **dict.fromkeys(("bn_scale", "lamp", "group_norm"), (1, 5)),
        "fpgm": (1, 4),
        "random": (2, 5),
    }
    [matrix] = matrices(found)[0]["budgets"]
    cells = {
        (row, name): cell for row, line in matrix["rows"] for name, cell in zip(matrix["names"], line, strict=True)
    }
    assert cells["bn_scale", "random"]["text"] == "·"
    assert cells["bn_scale", "random"]["note"] == "not compared: layers interior against all"
    both = "not compared: coupling aligned against free, scope global against layer"
    assert cells["group_norm", "random"]["note"] == both


def test_a_method_without_a_setting_is_compared_with_those_without_it(tmp_path: Path) -> None:
    found = strata(tmp_path, cap={}, fpgm={"layers": "all", "scope": "layer"}, random={}, sanp={"layers": "all"})
    [budget] = found[0].budgets
    assert [(pair.first.first.method, pair.second.first.method) for pair in budget.pairs] == [("cap", "random")]
    assert budget.apart == 5


def test_a_method_that_has_run_with_both_sets_of_layers_is_compared_with_both(tmp_path: Path) -> None:
    store(tmp_path, "bn_scale", [0.9] * 3, more={"layers": "interior"})
    store(tmp_path, "bn_scale", [0.62] * 3, more={"layers": "all"})
    found = strata(tmp_path, l1norm={"layers": "interior"}, random={"layers": "all"})
    [budget] = found[0].budgets
    names = [(pair.first.called, pair.second.called) for pair in budget.pairs]
    assert names == [("bn_scale (layers all)", "random"), ("bn_scale (layers interior)", "l1norm")]
    assert budget.apart == 4
    assert "bn_scale (layers all) is better than random (+2.0 ± 0.0)" in claims(found)[0]
    [grid] = rank_grids(found)
    assert [row[0].text for row in grid.rows] == [
        *("bn_scale (layers all)", "bn_scale (layers interior)", "l1norm", "random")
    ]


@pytest.mark.parametrize(("nets", "reason"), [(1, "1 of 3 nets"), (2, "2 of 3 nets"), (3, "")])
def test_fewer_than_three_nets_are_no_claim(tmp_path: Path, nets: int, reason: str) -> None:
    for seed in range(3):
        make(tmp_path, method="fpgm", ratio=0.3, seed=seed)
    for seed in range(nets):
        make(tmp_path, method="random", ratio=0.3, seed=seed)
    [family] = compared(tmp_path, outcomes(fpgm=902, random=700))
    [pair] = family.budgets[0].pairs
    assert pair.p_holm < 1e-9
    assert (pair.decided, pair.open_because) == (not reason, reason)
    assert len(claims([family])) == (nets == 3)


def test_the_configuration_is_chosen_by_seeds_not_by_accuracy(tmp_path: Path) -> None:
    make(tmp_path, method="l1norm", ratio=0.3)
    for seed in range(3):
        make(tmp_path, method="fpgm", ratio=0.3, seed=seed)
    better = make(tmp_path, method="fpgm", ratio=0.3001)
    result = json.loads((better / "result.json").read_text())
    result["metrics"]["final"]["accuracy"] = 0.999
    (better / "result.json").write_text(json.dumps(result))
    [family] = compared(tmp_path)
    chosen = {rank.group.first.method: rank.group for rank in family.budgets[0].ranks}
    assert len(chosen["fpgm"].records) == 3


def test_only_equal_seeds_are_paired(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make(tmp_path, method="fpgm", ratio=0.3, seed=seed)
    for seed in (0, 2, 3):
        make(tmp_path, method="l1norm", ratio=0.3, seed=seed)
    [family] = compared(tmp_path)
    [pair] = family.budgets[0].pairs
    assert pair.seed == 2
    assert pair.over_seeds.values == pytest.approx(tuple(gaps(tmp_path, "fpgm", "l1norm")))


def test_other_data_nets_and_checkpoints_are_never_paired(tmp_path: Path) -> None:
    make(tmp_path, method="fpgm", dataset="digits")
    make(tmp_path, method="l1norm", dataset="cifar10")
    make(tmp_path, method="l2norm", model="resnet56")
    path = make(tmp_path, method="random", dataset="cifar10") / "result.json"
    result = json.loads(path.read_text())
    result["model"]["pretrained"]["sha256"] = "another"
    path.write_text(json.dumps(result))
    assert compared(tmp_path) == []


def test_missing_predictions_refuse_a_pair_and_say_so(tmp_path: Path) -> None:
    make(tmp_path, method="fpgm")
    (make(tmp_path, method="l1norm") / "predictions.npz").unlink()
    [family] = compared(tmp_path)
    assert family.budgets[0].pairs == ()
    assert "predictions.npz cannot be read (FileNotFoundError)" in family.refused[0]
    assert all((rank.best, rank.worst) == (1, 2) for rank in family.budgets[0].ranks)


def test_predictions_are_read_without_pickles(tmp_path: Path) -> None:
    folder = make(tmp_path)
    [record] = collect(tmp_path).records
    assert read_correct(record).mean() == record.numbers["final.accuracy"]
    np.savez(folder / "predictions.npz", correct=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"predictions\.npz cannot be read \(ValueError\)"):
        read_correct(record)


def test_an_order_that_flips_is_named(tmp_path: Path) -> None:
    for ratio, first, second in ((0.1, 0.9, 0.8), (0.5, 0.5, 0.7)):
        for method, accuracy in (("fpgm", first), ("l1norm", second)):
            path = make(tmp_path, method=method, ratio=ratio) / "result.json"
            result = json.loads(path.read_text())
            result["metrics"]["final"]["accuracy"] = accuracy
            path.write_text(json.dumps(result))
    [family] = compared(tmp_path)
    assert family.flips == ("fpgm is ahead of l1norm at 12 % of the MACs removed, behind it at 62 %",)


def test_too_many_pairs_are_left_untested_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("fpgm", "l1norm", "random"):
        for ratio in (0.1, 0.3):
            make(tmp_path, method=method, ratio=ratio)
    monkeypatch.setattr(module, "MAX_PAIRS", 4)
    found, skipped = families(group(collect(tmp_path).records))
    assert [len(budget.pairs) for family in found for budget in family.budgets] == [3]
    assert skipped == 3
