"""scripts/compare.py: two runs, one test set, one verdict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from prunebench.measure.statistics import discordant, mcnemar
from prunebench.report.tables import p_value
from tests.report.factory import make

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare.py"


def called(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True)


def test_two_methods_at_one_ratio(tmp_path: Path) -> None:
    first, second = (make(tmp_path, method=method, dataset="cifar10", ratio=0.3) for method in ("fpgm", "random"))
    for seed in (1, 2):
        make(tmp_path, method="random", dataset="cifar10", ratio=0.3, seed=seed)
    correct = [np.load(folder / "predictions.npz")["correct"] for folder in (first, second)]
    b, c = discordant(*correct)
    done = called(first, second.parent)
    assert done.returncode == 0, done.stderr
    assert f"{b} right only in A, {c} only in B, McNemar p {p_value(mcnemar(b, c).exact)} (mid-p" in done.stdout
    assert "guarantee: interval only (1 of 3 seeds)" in done.stdout
    assert "guarantee: full" in done.stdout
    assert "setup S4.2: same data, net and rate, and the same base model" in done.stdout


def test_other_layers_are_named(tmp_path: Path) -> None:
    first = make(tmp_path, method="bn_scale", more={"layers": "interior"})
    second = make(tmp_path, method="random", more={"layers": "all"})
    assert "may not cut the same (layers interior against all)" in called(first, second).stdout
    third = make(tmp_path, method="fpgm", more={"layers": "all"})
    assert "may not cut the same" not in called(third, second).stdout


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    one = make(tmp_path, dataset="cifar10")
    assert "not tested on the same examples" in called(one, make(tmp_path)).stderr
    assert "holds no result" in called(one, tmp_path / "nothing").stderr
    make(tmp_path, dataset="cifar10", ratio=0.2)
    several = called(one, one.parent.parent)
    assert several.returncode == 1
    assert "several configurations" in several.stderr
