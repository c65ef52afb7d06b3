"""The source of foreign code that a configuration names: what counts is what it says, not what it is called."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prunebench.config.named import TARGET
from prunebench.disk.seal import file_sha256

OWN = "prunebench"
_LONGEST_NAME = 255
_LARGEST_FILE = 64 * 2**20
_DEEPEST = 3
"""Folders in folders that are named one by one."""
_NOT_KEPT = tuple(Path(root) for root in ("/proc", "/sys", "/dev", "/run"))
"""Where the system tells of itself: what stands there is nobody's file and another at every moment."""
_IMPORTERS = {"import_module", "__import__", "iter_modules", "walk_packages", "exec_module", "exec", "run_path"}
_IMPORTERS |= {"locate", "get_class", "get_method", "get_object", "resolve_name"}  # pydoc's, Hydra's, pkgutil's
_NAMERS = {"glob", "rglob", "iglob", "iterdir", "listdir", "scandir", "with_suffix", "with_name", "with_stem"}
"""Whoever calls one of these reads files whose names stand nowhere."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_RELATIVE = re.compile(r"(\.[^\W\d]\w*)+")
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

    The module counts, the packages around it, and all local modules that it imports, directly or not. Where a source
    imports by name (``importlib.import_module``), the modules that its texts name count, and all that lie beside it.
    Files count whose names stand in these sources as a text (``Path(__file__).parent / "widths.json"``), if they lie
    beside the source, above it or where the process was started, and have at most 64 MB; where a source puts names of
    files together, all files beside it do. Of installed packages the module alone counts: to follow PyTorch's imports
    would take seconds, and nobody edits them.

    Returns:
        None if there is no such module, or none that is read from a file.
    """
    files: dict[str, str] = {}
    waiting = _with_parents([path.rpartition(".")[0]])
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in files or file is None or (files and _is_installed(file)):
            continue
        content = file.read_bytes()
        files[name] = hashlib.sha256(content).hexdigest()
        if not _is_installed(file):
            tree = _tree(content)
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            texts = _texts(tree)
            waiting += _imports(tree, package)
            if _imports_by_name(tree):
                waiting += [*_as_modules(texts, package), *_modules(file.parent, package)]
            read = [*_named_files(texts, file.parent), *(_beside(texts, file.parent) if _makes_names(tree) else ())]
            files |= {f"{name}: {label}": file_sha256(place) for label, place in read if _counts(place)}
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


def _tree(content: bytes) -> ast.AST:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return ast.Module([], [])  # compiled, or broken: whoever imports it says so


def _imports(tree: ast.AST, package: str) -> list[str]:
    """The modules that a source imports, anywhere in it, and the packages that contain them."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            # what is imported may be a module itself
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return _with_parents(found)


def _imports_by_name(tree: ast.AST) -> bool:
    """Does a source call something that imports what a text names?"""
    return _names_one_of(tree, _IMPORTERS)


def _makes_names(tree: ast.AST) -> bool:
    """Does a source put names of files together, or list them?"""
    if _names_one_of(tree, _NAMERS):
        return True
    parts: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts.append(node.right)
        elif isinstance(node, ast.Call) and _names_one_of(node.func, {"open", "Path", "join", "joinpath", "load"}):
            parts += node.args
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add | ast.Mod))
        for part in parts
    )


def _names_one_of(tree: ast.AST, names: set[str]) -> bool:
    """Does something in a source have one of the names?"""
    return any(
        (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.alias) and node.name in names)
        for node in ast.walk(tree)
    )


def _as_modules(texts: set[str], package: str) -> list[str]:
    """The modules that texts may name, in full (``own.blocks``) or from the package on (``.blocks``)."""
    full = [text for text in texts if _MODULE.fullmatch(text)]
    return _with_parents([*full, *(f"{package}{text}" for text in texts if package and _RELATIVE.fullmatch(text))])


def _modules(folder: Path, package: str) -> Iterator[str]:
    """The modules and packages that lie in a folder."""
    for place in sorted(folder.iterdir()):
        if place.suffix == ".py" or (place / "__init__.py").is_file():
            yield f"{package}.{place.stem}" if package else place.stem


def _texts(tree: ast.AST) -> set[str]:
    """The texts in a source that could name something."""
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in values if isinstance(text, str) and len(text) <= _LONGEST_NAME and text.isprintable()}


def _with_parents(modules: Iterable[str]) -> list[str]:
    return [".".join(name.split(".")[:end]) for name in modules for end in range(1, name.count(".") + 2)]


def _named_files(texts: set[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """The files that texts name, beside the source, above it, where the process was started, or in a folder of those.

    With a name that does not say where the checkout lies: one in another place is the same code.
    """
    for kind, base in (("here", Path.cwd()), ("beside", folder), ("above", folder.parent)):
        for label, inner in _folders(texts, base):
            for name in _names(texts):
                if _is(Path.is_file, inner / name):
                    yield f"{kind}/{label}{name}", inner / name


def _beside(texts: set[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """All files beside a source, and in the folders there that texts name; other sources are found by their imports."""
    for label, inner in _folders(texts, folder):
        for place in sorted(inner.iterdir()) if os.access(inner, os.R_OK) else ():
            if place.suffix not in (".py", ".pyc") and _is(Path.is_file, place):
                yield f"beside/{label}{place.name}", place


def _folders(texts: set[str], base: Path) -> list[tuple[str, Path]]:
    """``base`` and the folders below it that can be reached by names in ``texts``, each with the way there."""
    found = [("", base)]
    for label, folder in found:  # those that are found on the way are gone through too
        inner = [(f"{label}{name}/", folder / name) for name in _names(texts) if label.count("/") < _DEEPEST]
        found += [(way, place) for way, place in inner if _is(Path.is_dir, place) and _is_kept(place)]
    return found


def _names(texts: set[str]) -> list[str]:
    return sorted(text for text in texts if text.strip("./ "))


def _counts(place: Path) -> bool:
    """Whether a file is somebody's, and not too large to be part of a source."""
    return _is_kept(place) and place.stat().st_size <= _LARGEST_FILE


def _is_kept(place: Path) -> bool:
    return not any(place.resolve().is_relative_to(root) for root in _NOT_KEPT)


def _is(kind: Callable[[Path], bool], place: Path) -> bool:
    """Whether something lies there. A text that no file can be called names none."""
    try:
        return kind(place)
    except OSError:
        return False
