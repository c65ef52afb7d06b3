"""The source of foreign code that a configuration names: what counts is what it says, not what it is called."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunebench.config.named import TARGET

OWN = "prunebench"
_INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib"))


def targets(settings: Any) -> Iterator[str]:
    """Every dotted path in ``settings`` that names something to be called, but for our own."""
    if isinstance(settings, Mapping):
        path = settings.get(TARGET)
        if isinstance(path, str) and path.partition(".")[0] != OWN:
            yield path
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from targets(value)


def source_sha256(path: str) -> str | None:
    """Checksum of the code behind the dotted path of a function or class, 64 hex digits.

    The module counts, and all local modules that it imports, directly or not. Of installed packages the module alone
    counts: to follow PyTorch's imports would take seconds, and nobody edits them.

    Returns:
        None if there is no such module, or none that is read from a file.
    """
    files: dict[str, str] = {}
    waiting = [path.rpartition(".")[0]]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in files or file is None or (files and _is_installed(file)):
            continue
        content = file.read_bytes()
        files[name] = hashlib.sha256(content).hexdigest()
        if not _is_installed(file):
            waiting += _imports(content, name, is_package=file.name == "__init__.py")
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest() if files else None


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in _INSTALLED)


def _file(module: str) -> Path | None:
    """Where a foreign module is read from; its packages are imported, it is not."""
    top = module.partition(".")[0]
    if not module or top == OWN or top in sys.stdlib_module_names:
        return None
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # not there, no module, or a package that raises anything: whoever calls it says so
        return None
    return Path(found.origin).resolve() if found is not None and found.has_location and found.origin else None


def _imports(content: bytes, module: str, *, is_package: bool) -> list[str]:
    """The modules that a module's source imports, anywhere in it, and the packages that contain them."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []  # compiled, or broken: whoever imports it says so
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            # what is imported may be a module itself
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [".".join(name.split(".")[:end]) for name in found for end in range(1, name.count(".") + 2)]
