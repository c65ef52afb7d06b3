"""Who may import whom: the contracts of pyproject.toml hold, and they do catch what they forbid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {
    "models and data import nothing": ("models/lenet.py", "from prunebench import task"),
    "criteria, layers, surgery and measure": ("measure/cost.py", "import prunebench.core.method"),
    "methods never import each other": ("methods/one_of_two.py", "from prunebench.methods import two_of_two"),
    "nothing imports methods": ("job.py", "from prunebench.methods import two_of_two"),
    "imports Lightning": ("task.py", "import pytorch_lightning"),
    "import Hydra": ("phase.py", "import hydra"),
    "OmegaConf stays": ("result.py", "from omegaconf import OmegaConf"),
}
"""Contract -> a module and a line in it that breaks this contract."""


def lint(folder: Path) -> tuple[int, dict[str, str]]:
    """Exit code of import-linter in ``folder``, and contract -> the line of its report."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if " KEPT" in line or " BROKEN" in line]
    assert lines, done.stdout + done.stderr
    return done.returncode, {name: line for name in FORBIDDEN for line in lines if name in line}


def test_contracts_hold() -> None:
    code, report = lint(ROOT)
    assert {name: "KEPT" in line for name, line in report.items()} == dict.fromkeys(FORBIDDEN, True)
    assert code == 0


def test_each_contract_catches_its_violation(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "prunebench", tmp_path / "prunebench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("one_of_two.py", "two_of_two.py"):
        (tmp_path / "prunebench" / "methods" / name).write_text('"""A method."""\n')
    for module, line in FORBIDDEN.values():
        path = tmp_path / "prunebench" / module
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    code, report = lint(tmp_path)
    assert {name: "BROKEN" in line for name, line in report.items()} == dict.fromkeys(FORBIDDEN, True)
    assert code == 1
