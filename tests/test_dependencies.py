"""What is imported is declared in pyproject.toml, where it is needed; what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = list(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])

THROUGH_OTHERS = {"wandb": "pytorch_lightning.loggers", "onnx": "torch.onnx", "onnxscript": "torch.onnx"}
"""Distributions that we import through another one's module -> this module."""

distributions = cache(packages_distributions)


def declared(*extras: str) -> set[str]:
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modules(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, with their packages."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(module)), *_]):
                yield module


def imported(paths: Iterable[Path]) -> dict[str, Path]:
    """Distribution of other people -> a file that imports it."""
    paths = list(paths)
    own = {"prunebench", "tests", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}
    found: dict[str, Path] = {}
    for path in paths:
        for module in {name.split(".")[0] for name in modules(path)} - own - sys.stdlib_module_names:
            # a peer need not be installed; its distribution is then taken to have the module's name
            found |= dict.fromkeys(map(normal, distributions().get(module, [module])), path)
    return found


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        ("prunebench/**/*.py", ("robust",)),
        ("shipped", ()),
        ("scripts/*.py", ("peers", "zoo")),
        ("tests/**/*.py", ("dev", "peers", "robust")),
    ],
)
def test_what_is_imported_is_declared(files: str, extras: tuple[str, ...]) -> None:
    shipped = [ROOT / name for name in SHIPPED if name.endswith(".py")]
    paths = shipped if files == "shipped" else list(ROOT.glob(files))
    assert len(paths) > 3
    found = imported(paths)
    assert {name: path for name, path in found.items() if name not in declared(*extras)} == {}


def test_what_is_declared_is_imported() -> None:
    paths = list((ROOT / "prunebench").rglob("*.py"))
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    through = {name for name, module in THROUGH_OTHERS.items() if module in source}
    assert declared("robust") == {*imported(paths), *through}
