"""What is recorded about machine and software, and the allocator's tuning."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from prunebench.run import runtime


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one file")
    return tmp_path


def test_clean_checkout(checkout: Path) -> None:
    assert runtime.git_state(checkout / "package") == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["package/code.py", "package/new.py"])
def test_changed_and_new_files_are_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("x = 2\n")
    state = runtime.git_state(checkout / "package")
    assert state == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


def test_no_state_outside_a_checkout(tmp_path: Path) -> None:
    assert runtime.git_state(tmp_path) is None


def test_no_state_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "package").mkdir()
    assert runtime.git_state(tmp_path / "package") is None


def test_foreign_checkout_around_an_installed_package_is_not_ours(checkout: Path) -> None:
    installed = checkout / "venv" / "site-packages" / "prunebench"
    installed.mkdir(parents=True)
    assert runtime.git_state(installed) is None


def test_variables_of_a_git_hook_do_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))
    state = runtime.git_state(checkout / "package")
    assert state is not None
    assert state["commit"] == commit


def test_no_state_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert runtime.git_state(checkout / "package") is None


def test_versions_are_those_that_run() -> None:
    found = runtime.versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["python"] == platform.python_version()
    assert found["numpy"] == metadata.version("numpy")
    assert found["pytorch-lightning"].startswith("2.6.")
    assert all(isinstance(value, str) and value for value in found.values())


def test_hardware_says_what_torch_uses() -> None:
    torch.set_num_threads(1)
    found = runtime.hardware()
    assert found["threads"] == 1
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["ram_bytes"] is None or found["ram_bytes"] > 2**28
    assert len(found["gpus"]) == torch.cuda.device_count()


STEPS = """
import resource, sys
from prunebench.run import runtime
if sys.argv[1] == "tuned":
    assert runtime.tune_allocator()
import torch
net = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(8)))
images = torch.zeros(64, 16, 32, 32)
for step in range(6):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    net(images).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_tuned_allocator_keeps_its_pages() -> None:
    """Later training steps take hardly a fresh page from the kernel; by default each takes thousands."""

    def faults(mode: str) -> int:
        command = [sys.executable, "-c", STEPS, mode]
        root = Path(__file__).resolve().parents[2]
        return int(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)

    tuned, default = faults("tuned"), faults("default")
    assert default > 5_000
    assert tuned < default / 4


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.tune_allocator() is False


def test_a_choice_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    runtime.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    runtime.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
