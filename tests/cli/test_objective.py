"""What a search is told of its runs, which way it is to go, and what it has found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from prunebench.cli import objective
from prunebench.core.result import read_result
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS
from tests.kit import SHORT

ACCURACY, MACS = METRICS["validation.accuracy"], METRICS["macs"]


def result(accuracy: float, macs: int, command: str = "") -> dict[str, Any]:
    return {
        "metrics": {"final": {"accuracy": 0.5, "validation": {"accuracy": accuracy}}},
        "cost": {"final": {"macs": macs}, "macs_removed": 0.25},
        "run": {"command": f"python -m prunebench {command}"},
    }


@pytest.mark.parametrize(
    ("asked", "told", "direction"),
    [
        ("", 0.9, "[maximize]"),
        ("objective=accuracy", 0.5, "[maximize]"),
        ("objective=macs", 1000, "[minimize]"),
        ("objective=[validation.accuracy,macs]", (0.9, 1000), "[maximize,minimize]"),
        ("objective=[macs_removed]", 0.25, "[maximize]"),
    ],
)
def test_a_search_is_told_what_was_asked_and_goes_where_it_is_better(asked: str, told: Any, direction: str) -> None:
    line = ["-m", "hydra/sweeper=optuna", *asked.split()]
    assert objective.told(result(0.9, 1000), objective.searched(line)) == told
    assert objective.directed(line) == [*line, f"hydra.sweeper.direction={direction}", "hydra.sweeper.sampler.seed=0"]


def test_what_is_given_stays_and_other_sweeps_are_told_nothing() -> None:
    given = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra/sweeper/sampler=grid"]
    assert objective.directed(given) == given
    assert objective.directed(["-m", "method=fpgm,l1norm"]) == ["-m", "method=fpgm,l1norm"]
    assert objective.searched(["-m", "method=fpgm,l1norm"]) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("acuracy", "did you mean accuracy"),
        ("ece_bins", "objective must be a metric"),  # neither way is better
        (3, "objective must be a metric"),
        ([], "must name one number or several"),
        (["macs", "macs"], "must name one number or several"),
        ([["macs"]], "objective must be a metric"),
        ({"macs": 1}, "objective must be a metric"),
    ],
)
def test_other_wishes_are_refused(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        objective.asked(value)


def test_a_plain_sweep_is_told_nothing() -> None:
    cfg = OmegaConf.create({"objective": None, "dataset": {"name": "text", "num_symbols": 205}})
    assert objective.check(cfg, OmegaConf.create({})) == ()
    assert objective.told(result(0.9, 1000), ()) is None


@pytest.mark.parametrize("dataset", [{"num_symbols": 205}, {"num_classes": 10, "validation": 0}])
def test_a_search_without_a_validation_split_says_so_before_it_begins(dataset: dict[str, int]) -> None:
    cfg = OmegaConf.create({"objective": None, "dataset": {"name": "mine", **dataset}})
    with pytest.raises(UserError, match=r"objective=validation\.accuracy .* dataset=mine has none here"):
        objective.check(cfg, OmegaConf.create({"direction": ["maximize"]}))
    cfg.objective = "bpc"
    assert [metric.key for metric in objective.check(cfg, OmegaConf.create({"direction": "minimize"}))] == ["bpc"]


def test_directions_that_contradict_the_metrics_are_refused() -> None:
    cfg = OmegaConf.create({"objective": ["accuracy", "macs"], "dataset": {"name": "digits"}})
    for given in ("minimize", ["maximize", "maximize"], ["maximize"]):
        with pytest.raises(UserError, match=re.escape("hydra.sweeper.direction=[maximize,minimize], got")):
            objective.check(cfg, OmegaConf.create({"direction": given}))
    with pytest.raises(UserError, match=r"objective=macs is to be found with hydra\.sweeper\.direction=\[minimize\]"):
        objective.directed(["hydra/sweeper=optuna", "objective=macs", "hydra.sweeper.direction=maximize"])
    for right in (None, ["maximize", "minimize"]):
        assert [m.key for m in objective.check(cfg, OmegaConf.create({"direction": right}))] == ["accuracy", "macs"]


def test_a_number_that_was_not_measured_names_one_that_was() -> None:
    with pytest.raises(UserError, match=r"validation\.accuracy was not measured; .* objective=accuracy"):
        objective.told({"metrics": {"final": {"accuracy": 0.5}}}, [ACCURACY])


def test_the_front_is_what_pairwise_comparison_leaves() -> None:
    """Against the definition over tensors, on points with ties in one and in both numbers."""
    points = torch.randint(0, 6, (60, 2), generator=torch.Generator().manual_seed(0))
    signed = points * torch.tensor([1, -1])
    as_good = (signed[:, None] >= signed[None]).all(-1)
    better = (signed[:, None] > signed[None]).any(-1)
    expected = torch.nonzero(~(as_good & better).any(0)).flatten().tolist()
    results = [result(a / 10, m) for a, m in points.tolist()]
    assert 1 < len(expected) < 30
    assert objective.front(results, [ACCURACY, MACS]) == expected
    (best,) = {results[i]["metrics"]["final"]["validation"]["accuracy"] for i in objective.front(results, [ACCURACY])}
    assert best == points[:, 0].max().item() / 10


def test_what_was_found_is_said_with_its_settings() -> None:
    results = [result(0.9, 2000, "a.b=1 x=2"), result(0.8, 1000, "a.b=3 x=2"), result(0.8, 3000, "a.b=5")]
    assert objective.lines(results, [ACCURACY, MACS], {"a.b"}) == [
        "2 of 3 runs are beaten by no other in validation accuracy (higher is better), MACs (lower is better):",
        "  validation accuracy 80.00 %, MACs 1,000: a.b=3",
        "  validation accuracy 90.00 %, MACs 2,000: a.b=1",
    ]
    *_, last = objective.lines(results, [METRICS["accuracy"], MACS], {"a.b"})
    assert last.startswith("warning: test accuracy is too good now")


@pytest.mark.slow
def test_a_study_of_two_numbers_ends_with_optunas_own_set_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    command = [sys.executable, "-m", "prunebench", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"]
    command += [*SHORT, "model=lenet300_100", "schedule=oneshot", "method=l1norm,random"]
    command += ["method.prune_ratio=interval(0.1,0.7)", "objective=[validation.accuracy,macs]"]
    command += [f"paths.outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [read_result(path.parent) for path in (tmp_path / "runs").rglob("result.json")]
    found = {objective.told(results[i], [ACCURACY, MACS]) for i in objective.front(results, [ACCURACY, MACS])}
    study: Any = OmegaConf.to_container(OmegaConf.load(tmp_path / "sweeps" / "optimization_results.yaml"))
    assert {tuple(solution["values"]) for solution in study["solutions"]} == found
    assert f"{len(found)} of {len(results)} runs are beaten by no other" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.count("already complete: ") == 4
