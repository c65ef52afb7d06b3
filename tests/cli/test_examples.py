"""Commands that the README and ``--help`` show: each run can be built, each script takes what it is given."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from prunebench import rows
from prunebench.cli.help import EXAMPLES, help_text
from prunebench.config import named
from prunebench.config.phase import build_phases
from prunebench.config.settings import TrainerSettings
from prunebench.nets.dense_net import make_net
from prunebench.rows.reproduce import rows_of
from tests.kit import configure

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = [line for block in README.split("\n```")[1::2] for line in block.splitlines()[1:]]
SHOWN = [command for command, _ in EXAMPLES]


def given_to(program: str) -> list[tuple[str, ...]]:
    """The words after ``program`` in each command that starts with it; a placeholder ``<run folder>`` is one word."""
    lines = [re.sub(r"<[^>]*>", "placeholder", line) for line in (*CODE, *SHOWN)]
    return [tuple(shlex.split(line.removeprefix(program), comments=True)) for line in lines if line.startswith(program)]


def runs_of(arguments: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Overrides of one run; of a sweep so many that each value occurs, beside the first ones of the other keys."""
    overrides = OverridesParser.create().parse_overrides([word for word in arguments if word != "-m"])
    choices = [
        [f"{found.key_or_group}={value}" for value in found.sweep_string_iterator()]
        if found.is_sweep_override()
        else [str(found.input_line)]
        for found in overrides
    ]
    firsts = [values[0] for values in choices]
    yield tuple(firsts)
    for place, values in enumerate(choices):
        yield from ((*firsts[:place], value, *firsts[place + 1 :]) for value in values[1:])


COMMANDS = given_to("python -m prunebench")
RUNS = list(dict.fromkeys(overrides for arguments in COMMANDS for overrides in runs_of(arguments)))


def test_the_commands_are_found() -> None:
    assert len(SHOWN) < len(COMMANDS) == README.count("\npython -m prunebench") + len(SHOWN)
    assert len(given_to("python scripts/")) == README.count("\npython scripts/") > 0


def installed(override: str) -> bool:
    """False for the choice of a launcher that is not installed; it says nothing about the run itself."""
    group, _, launcher = override.partition("=")
    try:
        return group != "hydra/launcher" or bool(import_module(f"hydra_plugins.hydra_{launcher}_launcher"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_a_run_composes_and_can_be_built(overrides: tuple[str, ...], tmp_path: Path) -> None:
    # the reader's own net is ours here
    ours = [word.replace("my_package.my_net", "tests.small_nets.small_resnet") for word in overrides if installed(word)]
    rows.register(ours)
    config, _ = configure(tmp_path, *ours)
    assert build_phases(config["schedule"]["phases"])
    TrainerSettings(**config["trainer"])
    method = named.build("method", config["method"])
    assert config["schedule"]["name"] in method.schedules
    assert named.build("dataset", config["dataset"]).name == config["dataset"]["name"]
    if config.get("ood"):
        assert named.build("ood", config["ood"]).name == config["ood"]["name"]
    with torch.device("meta"):
        make_net(config["model"])


class Accepted(Exception):
    """The script has read its arguments and would begin."""


def begin(*arguments: Any, **settings: Any) -> NoReturn:
    raise Accepted


def start(script: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to the place where it has understood ``arguments``."""
    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *given: Any, **settings: Any) -> NoReturn:
        real(self, *given, **settings)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    # two scripts have no parser: what they call with what they have understood
    for place in (
        "prunebench.rows.reproduce.work",
        "prunebench.rows.reproduce.launch",
        "prunebench.report.collect.find",
    ):
        monkeypatch.setattr(place, begin)
    # each row of a table is composed; two of them are enough here
    monkeypatch.setattr("prunebench.rows.reproduce.rows_of", lambda *given: rows_of(*given)[:2])
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # one of them sets it
    runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")


@pytest.mark.parametrize("words", given_to("python scripts/"), ids=" ".join)
def test_a_script_takes_what_the_readme_gives_it(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = words
    with pytest.raises(Accepted):
        start(script, tuple(arguments), monkeypatch)


@pytest.mark.parametrize("words", ["report.py --sorted", "export.py folder --to onx", "reproduce.py paper=fpgn"])
def test_a_script_does_not_take_what_it_does_not_know(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = words.split()
    with pytest.raises(SystemExit) as ended:
        start(script, tuple(arguments), monkeypatch)
    assert ended.value.code in (1, 2)


def test_every_script_that_is_named_exists() -> None:
    named = set(re.findall(r"scripts/(\w+\.py)", README + help_text()))
    assert named and {name for name in named if not (ROOT / "scripts" / name).is_file()} == set()
