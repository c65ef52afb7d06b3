"""Who may import whom: the contracts of pyproject.toml hold, and they do catch what they forbid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run([*command, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


def test_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("models/lenet.py", "from prunebench import task", "models and data import nothing"),
        ("data/splits.py", "import prunebench.result", "models and data import nothing"),
        ("criteria/__init__.py", "import prunebench.methods", "criteria, layers, surgery and measure"),
        ("task.py", "import pytorch_lightning", "import Lightning"),
        ("task.py", "import lightning", "import Lightning"),
        ("task.py", "import hydra", "import Hydra"),
        ("task.py", "from omegaconf import OmegaConf", "OmegaConf stays"),
    ],
)
def test_contracts_catch(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "prunebench", tmp_path / "prunebench", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "prunebench" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.splitlines() if "BROKEN" in text]
    assert len(broken) >= 1
    assert any(contract in text for text in broken), broken


def test_methods_may_not_share_code(tmp_path: Path) -> None:
    """A method that imports another one breaks the contract of independence."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "prunebench", tmp_path / "prunebench", ignore=shutil.ignore_patterns("__pycache__"))
    methods = tmp_path / "prunebench" / "methods"
    (methods / "one_of_two.py").write_text('"""A method."""\n')
    (methods / "two_of_two.py").write_text('"""A method."""\n\nfrom prunebench.methods import one_of_two\n')
    done = lint(tmp_path)
    assert done.returncode == 1
    assert any("methods never import each other BROKEN" in text for text in done.stdout.splitlines()), done.stdout
