"""Launchers and sweepers that are not installed: the extra that brings them is named."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from prunebench.cli import main
from prunebench.cli.extras import EXTRA, PACKAGES, needed

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [(group, name) for group, names in PACKAGES.items() for name in names]


def test_the_extra_has_these_packages_and_no_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {re.split("[<>=]", line)[0] for line in project["optional-dependencies"][EXTRA]}
    assert extra == {package for names in PACKAGES.values() for package in names.values()}


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_what_is_missing_is_said_with_the_remedy(
    group: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    package = PACKAGES[group][name]
    said = f"{group}={name} needs the package {package}: pip install 'prunebench[sweep]', or take {group}=basic"
    assert needed(group, name, ["basic"]) == said
    assert needed(group, name, ["basic", name]) == ""
    assert needed(group, "nope", ["basic"]) == ""
    Plugins.instance()  # adds what is installed
    if f"{name}.yaml" in ConfigStore.instance().list(group):
        return
    monkeypatch.setattr(sys, "argv", ["prunebench"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main.main(["-m", f"{group}={name}", "seed=0,1", f"paths.outputs={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"
