"""Whoever adds a method, a net, a data set or a paper edits no file that is there, and is checked all the same.

``tests/additions/good`` and ``broken`` hold such files. They are laid into a copy of the repository, where the suite
runs as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDITIONS = Path(__file__).with_name("additions")
CHECKS = (
    *("tests/conformance", "tests/config/test_comments.py", "tests/rows/test_files.py", "tests/rows/test_counting.py"),
    *("tests/rows/test_compare.py", "tests/rows/test_printed.py", "tests/methods", "tests/models", "tests/data"),
)
"""Where the suite looks at everything that exists, and the newcomers' own tests."""

METHOD = "tests/conformance/test_every_method.py::"
MODEL = "tests/conformance/test_every_model.py::"
DATA = "tests/conformance/test_every_data_set.py::"
ROWS = "tests/rows/test_files.py::"
COMMENT = "tests/config/test_comments.py::test_every_value_has_a_comment"
COUNTS = "tests/rows/test_counting.py::test_some_rows_on_small_pictures"

TAKEN_UP = {
    *(f"{COMMENT}[method/newcomer_{name}]" for name in ("taylor", "decay", "blocks")),
    *(f"{COMMENT}[dataset/newcomer_{name}]" for name in ("dots", "asks")),
    f"{COMMENT}[model/newcomer_net]",
    *(
        f"{METHOD}{check}[newcomer_{method}]"
        for check in (
            "test_the_optimiser_holds_what_trains_and_two_steps_move_it",
            "test_an_unsupported_schedule_is_refused_before_training",
            "test_a_value_of_another_type_is_refused_by_name",
        )
        for method in ("taylor", "decay", "blocks")
    ),
    *(
        f"{METHOD}{check}[newcomer_{run}]"
        for check in ("test_runs_and_keeps_its_promises", "test_an_interrupted_run_ends_with_the_same_numbers")
        for run in ("taylor-finetune", "decay-simultaneous", "blocks-oneshot")
    ),
    f"{MODEL}test_its_values_are_those_of_its_function[newcomer_net]",
    f"{MODEL}test_it_gives_a_logit_for_each_class[newcomer_net]",
    f"{MODEL}test_its_channels_can_be_cut[newcomer_net]",
    *(f"{DATA}test_its_file_names_a_class_and_lengths[newcomer_{name}]" for name in ("dots", "asks")),
    f"{DATA}test_it_is_built_as_its_file_says[newcomer_dots]",
    f"{DATA}test_its_batches_hold_its_samples[newcomer_dots]",
    f"{ROWS}test_no_row_is_missing[newcomer]",
    f"{ROWS}test_every_row_runs_or_says_why_not[newcomer]",
    f"{ROWS}test_rows_choose_existing_options[newcomer]",
    f"{ROWS}test_what_is_pending_is_not_built[newcomer]",
    f"{ROWS}test_a_value_that_follows_is_not_typed_twice[newcomer]",
    f"{ROWS}test_a_file_says_what_omegaconf_reads_in_it[newcomer]",
    f"{COUNTS}[newcomer]",
    "tests/methods/test_newcomer_taylor.py::test_its_row_is_a_run",
    "tests/data/test_newcomer_dots.py::test_the_script_asks_for_the_value",
}
"""What must have run for the good ones, and passed."""

CAUGHT = {
    f"{COMMENT}[method/newcomer_forgetful]",
    f"{METHOD}test_an_interrupted_run_ends_with_the_same_numbers[newcomer_forgetful-simultaneous]",
    f"{METHOD}test_what_is_declared_belongs_to_a_method",
    f"{MODEL}test_its_values_are_those_of_its_function[newcomer_branchy]",
    f"{MODEL}test_its_channels_can_be_cut[newcomer_branchy]",
    f"{MODEL}test_every_net_has_a_configuration",
    f"{DATA}test_its_file_names_a_class_and_lengths[newcomer_alias]",
    f"{DATA}test_its_batches_hold_its_samples[newcomer_alias]",
    f"{ROWS}test_no_row_is_missing[newcomer_wrong]",
    f"{COUNTS}[newcomer_wrong]",
}
"""What must have failed for the broken ones, and nothing else."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the good additions; no file of it is replaced."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("prunebench", "conf", "scripts", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("additions"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    add("good", folder)
    return folder


def add(kind: str, folder: Path) -> None:
    for file in (ADDITIONS / kind).rglob("*.*"):
        target = folder / file.relative_to(ADDITIONS / kind)
        assert not target.exists(), f"{target} is there already"
        shutil.copy(file, target)


def call(folder: Path, *arguments: str) -> str:
    """Output of ``python <arguments>`` in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600)
    return done.stdout + done.stderr


def outcomes(folder: Path, selection: str) -> dict[str, set[str]]:
    """``PASSED``, ``FAILED`` -> tests of the suite whose name fits ``selection``."""
    output = call(folder, "-m", "pytest", "-p", "no:xdist", "-q", "--tb=line", "-rpfE", "-k", selection, *CHECKS)
    found = re.findall(r"^([A-Z]+) (tests/\S+::\S+)", output, re.MULTILINE)
    assert found, output
    return {state: {test for other, test in found if other == state} for state in {state for state, _ in found}}


def lint(folder: Path) -> str:
    """What ruff and the import contracts say about newcomers."""
    contracts = call(folder, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache")
    style = call(folder, "-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert "Contracts: " in contracts and "\n" in style, contracts + style
    return "\n".join(line for line in (contracts + style).splitlines() if "newcomer" in line)


@pytest.mark.slow
def test_additions_are_taken_up_and_pass(copy: Path) -> None:
    assert lint(copy) == ""
    found = outcomes(copy, "newcomer or declared or every_net or every_file or contradictions")
    assert found.keys() == {"PASSED"}
    assert found["PASSED"] >= TAKEN_UP
    listed = call(copy, "-m", "prunebench", "--help")
    assert all(
        name in listed
        for name in ("newcomer_taylor", "newcomer_blocks", "newcomer_decay", "newcomer_net", "newcomer_asks")
    )


@pytest.mark.slow
def test_what_is_broken_is_caught(copy: Path) -> None:
    add("broken", copy)
    kinds = ("forgetful", "branchy", "alias", "wrong")
    found = outcomes(copy, " or ".join(("declared", "every_net", *(f"newcomer_{kind}" for kind in kinds))))
    assert found["FAILED"] == CAUGHT
    assert "newcomer_forgetful -> prunebench.methods.newcomer_decay" in lint(copy)
