"""Who may import whom: the contracts of pyproject.toml hold, and they do catch what they forbid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise, permutations, product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = {
    contract["name"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
LAYERED = "no room imports one above it"
FLOORS = [[room.strip() for room in floor.split("|")] for floor in CONTRACTS[LAYERED]["layers"]]
"""From the top down, the rooms on each."""
FORBIDDEN = {
    "methods import their bases, never each other": (
        "methods/one_of_two.py",
        "from prunebench.methods import two_of_two",
    ),
    "nothing imports methods: configurations name them in _target_": ("run/job.py", "import prunebench.methods.agp"),
    "only the package training imports Lightning": ("core/task.py", "import pytorch_lightning"),
    "only the command line and the rows import Hydra": ("config/phase.py", "import hydra"),
    "OmegaConf stays where configurations are read and written": ("core/result.py", "from omegaconf import OmegaConf"),
}
"""Each other contract -> a module and a line in it that breaks this contract."""


def lint(folder: Path) -> tuple[int, dict[str, bool], str]:
    """Exit code of import-linter in ``folder``, contract -> whether it holds, and the whole report."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    found = re.findall(r"^(.+) (KEPT|BROKEN)( \(.*\))?$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return done.returncode, {name: verdict == "KEPT" for name, verdict, _ in found}, done.stdout


def test_contracts_hold() -> None:
    code, held, _ = lint(ROOT)
    assert held == dict.fromkeys(CONTRACTS, True)
    assert code == 0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "prunebench", tmp_path / "prunebench", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def neighbours() -> Iterator[tuple[str, str]]:
    """Each room with those beside it and right above it, which it must not import."""
    for floor in FLOORS:
        yield from permutations(floor, 2)
    for upper, lower in pairwise(FLOORS):
        yield from product(lower, upper)


def test_every_room_has_its_floor() -> None:
    inside = [
        path for path in (ROOT / "prunebench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted(room for floor in FLOORS for room in floor) == sorted(
        f"prunebench.{path.stem}" for path in inside if path.stem != "__init__"
    )


@pytest.mark.parametrize(
    "line", ["import {}", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {}"], ids=["run", "typing"]
)
def test_no_room_imports_its_neighbour_above(line: str, copy: Path) -> None:
    pairs = list(neighbours())
    for lower, upper in pairs:
        path = copy.joinpath(*lower.split("."))
        append(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"), line.format(upper))
    code, held, report = lint(copy)
    assert [pair for pair in pairs if "{} -> {} (l.".format(*pair) not in report] == []
    assert code == 1 and not held[LAYERED]


def test_each_other_contract_catches_its_violation(copy: Path) -> None:
    assert set(CONTRACTS) == {LAYERED, *FORBIDDEN}
    for name in ("one_of_two.py", "two_of_two.py"):
        (copy / "prunebench" / "methods" / name).write_text('"""A method."""\n')
    for module, line in FORBIDDEN.values():
        append(copy / "prunebench" / module, line)
    code, held, _ = lint(copy)
    assert {name: held[name] for name in FORBIDDEN} == dict.fromkeys(FORBIDDEN, False)
    assert code == 1
