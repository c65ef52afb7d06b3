"""The built wheel carries its configuration: `python -m prunebench` works where there is no checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as pip would lay it down; built without a network."""
    pytest.importorskip("hatchling", reason="the extra dev builds wheels")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    (wheel,) = folder.glob("prunebench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_config_file_and_module_is_inside(unpacked: Path) -> None:
    for source, inside in ((ROOT / "conf", "prunebench/conf"), (ROOT / "prunebench", "prunebench")):
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (unpacked / inside / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert not (unpacked / "tests").exists()


def test_the_commands_that_help_names_run_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PRUNEBENCH_OUTPUTS": str(tmp_path / "outputs")}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)

    text = call("-m", "prunebench", "--help").stdout
    scripts = set(re.findall(r"python -m (prunebench\.scripts\.\w+)", text))
    inside = {f"prunebench.scripts.{path.stem}" for path in (unpacked / "prunebench" / "scripts").glob("*.py")}
    assert scripts == inside and len(scripts) >= 6
    assert "scripts/" not in text
    code = f"import importlib; [importlib.import_module(name) for name in {sorted(scripts)}]"
    assert call("-c", code).stderr == ""
    assert "fpgm-t1_resnet56_only40" in call("-m", "prunebench.scripts.rows", "list", "fpgm").stdout
    checked = call("-m", "prunebench.scripts.data", "check", "digits", "mnist", "--data", str(tmp_path))
    assert checked.returncode == 1 and re.search(r"digits +ok", checked.stdout)
    assert "run `python -m prunebench.scripts.data get mnist`" in checked.stdout


def test_it_composes_a_run_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PRUNEBENCH_OUTPUTS": str(tmp_path / "outputs")}
    command = [sys.executable, "-m", "prunebench", "model=resnet56", "--cfg", "job", "--resolve"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "name: resnet56" in done.stdout
    code = "import prunebench, prunebench.cli.help; print(prunebench.__file__, prunebench.config.groups.conf_folder())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.count(str(unpacked)) == 2, done.stderr
