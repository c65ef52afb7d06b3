"""Any command line is carried out or refused: one sentence, exit code 1, nothing written, and never a traceback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from prunebench.cli import main
from prunebench.config import whole
from prunebench.config.identity import run_folder
from tests.cli.command_lines import generated

SWEEP = {"-m", "--multirun", "hydra.mode=MULTIRUN"}


class Accepted(BaseException):
    """The run would begin now: what is declared of its configuration has been checked."""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[list[str]], tuple[int | None, str]]:
    """Carry a command out up to its run, in an empty folder; its exit code, None if it would run, and its errors."""

    def begin(config: Mapping[str, Any]) -> None:
        whole.check(config)
        run_folder(config)
        raise Accepted

    def call(words: list[str]) -> tuple[int | None, str]:
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)  # a sweep keeps what it was asked
        monkeypatch.setattr(sys, "argv", ["prunebench"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        GlobalHydra.instance().clear()
        try:
            code = main.main(words)
        except Accepted:
            code = None
        except SystemExit as end:  # Hydra's own end of a command that only prints
            code = int(end.code or 0)
        return code, capfd.readouterr().err

    monkeypatch.setattr(main, "identified", begin)
    monkeypatch.setenv("PRUNEBENCH_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    return call


def fault(words: list[str], code: int | None, errors: str, folder: Path) -> str:
    """What is wrong with how a command has ended; nothing if all is as it should be."""
    lines = [line for line in errors.splitlines() if line.strip()]
    if "Traceback" in errors:
        return "a traceback"
    if code not in (None, 0, 1):
        return f"exit code {code}"
    if code == 1 and (not lines or not lines[-1].startswith("error: ")):
        return "no sentence"
    if code == 1 and len(lines) > 1 and not SWEEP & set(words):  # a sweep names its job, too
        return "more than a sentence"
    return "files" if code == 1 and not SWEEP & set(words) and (folder / "outputs").exists() else ""


@pytest.mark.parametrize(
    ("number", "seed"), [(50, 0), pytest.param(600, 1, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_it_is_carried_out_or_refused_in_one_sentence(
    number: int, seed: int, command: Callable[[list[str]], tuple[int | None, str]], tmp_path: Path
) -> None:
    wrong, ends = {}, []
    for words in generated(number, seed):
        try:
            code, errors = command(words)
        except Exception as error:  # each of them is a finding, and the others are wanted too
            code, errors = 1, f"Traceback: {error!r}"
        ends.append(code)
        if found := fault(words, code, errors, tmp_path):
            wrong[" ".join(words)] = f"{found}: {errors[-500:]}"
    assert not wrong, "\n\n".join(f"{line}\n{found}" for line, found in wrong.items())
    assert min(ends.count(None), ends.count(1)) > number / 20  # the family holds both kinds
