"""``--help method=fpgm``: one option of a group in full, read from its file, its class and the rows of papers."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from prunebench.config.groups import GROUPS, NOT_ARGUMENTS, conf_folder, options
from prunebench.errors import UserError, here, nearest
from prunebench.rows import load_papers
from prunebench.rows.row import Paper, Row

WIDTH = 100
MAX_ROWS = 8
"""So many rows are named; all of them are listed by ``scripts/rows.py``."""
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+): *(?P<value>.*?)(?: +# (?P<comment>.*))?$")
_OVERRIDE = re.compile(r"^ *- override /(\w+)@[\w.]+: *(\w+)", re.MULTILINE)
_PART = re.compile(r"^ *- part@_here_: *(\w+)", re.MULTILINE)
_PLAIN = ("defaults", "recipe", "schedules", "_target_", *NOT_ARGUMENTS["method"])
"""Keys that are said in words here, or that nobody sets."""


def asked(arguments: list[str]) -> list[tuple[str, str]]:
    """The options beside ``--help``, as (group, name)."""
    words = (argument.partition("=") for argument in arguments if "=" in argument)
    return [(group, name) for group, _, name in words if group in GROUPS]


def explain(group: str, name: str) -> str:
    """What the option is, its keys with their defaults; of a method also its schedules, its paper and its rows.

    Raises:
        UserError: there is no such option.
    """
    known = options(group)
    if name not in known:
        raise UserError(f"{group} has no option {name!r}{nearest(name, known)}; it can be {', '.join(known)}")
    text = (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [*_wrapped(f"{group}={name}: {known[name]}"), ""]
    if group == "method":
        lines += _beside(name, text)
    lines += ["Keys, with their defaults:", *_keys(group, text)]
    if group == "method":
        lines += ["", *_recipes(text), *_papers(name)]
    return here("\n".join(lines))


def _beside(name: str, text: str) -> list[str]:
    """How it is started: the groups that suit it, and the schedules that it supports."""
    suited = dict(_OVERRIDE.findall(text))
    chosen = suited.get("schedule", "finetune")
    named = [
        f"{schedule} (unless another is asked for)" if schedule == chosen else schedule for schedule in _schedules(text)
    ]
    lines = ["Start:", f"  python -m prunebench method={name}"]
    others = [f"{group}={option}" for group, option in suited.items() if group != "schedule"]
    lines += [f"      with {', '.join(others)}, which suits it, unless another is asked for"] if others else []
    return [*lines, "", "Schedules:", *_wrapped(", ".join(named), "  "), ""]


def _schedules(text: str) -> list[str]:
    """In the order of the files; what the configuration names, else what the class supports."""
    whole = _with_parts("method", text)
    written = re.findall(r"^schedules: *\[(.*?)\]", whole, re.MULTILINE)
    if written:
        supported = {word.strip() for word in written[-1].split(",")}
    else:
        target = re.findall(r"^_target_: *([\w.]+)", whole, re.MULTILINE)[-1]
        module, _, kind = target.rpartition(".")
        supported = set(getattr(importlib.import_module(module), kind).schedules)
    return [schedule for schedule in options("schedule") if schedule in supported]


def _with_parts(group: str, text: str) -> str:
    parts = [conf_folder() / group / "part" / f"{part}.yaml" for part in _PART.findall(text)]
    return "\n".join([*(part.read_text(encoding="utf-8") for part in parts), text])


def _keys(group: str, text: str) -> list[str]:
    found: dict[str, tuple[str, str]] = {}
    for key, value, comment in _lines(_with_parts(group, text)):
        before = found.pop(key, ("", ""))  # a later file says the default anew, and perhaps no more than that
        found[key] = (value, comment or before[1])
    lines = []
    for key, (value, comment) in found.items():
        lines.append(f"  {group}.{key}={value}" if value else f"  {group}.{key}")
        lines += _wrapped(comment, "      ")
    return lines or ["  none"]


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Dotted key, default and comment of each line that is a key to be set."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        indent = len(match["indent"])
        above = [(column, key) for column, key in above if column < indent]
        path = [*(key for _, key in above), match["key"]]
        above.append((indent, match["key"]))
        is_value = match["value"] or match["comment"]
        if is_value and path[0] not in _PLAIN and path[-1] != "_target_":
            yield ".".join(path), match["value"], match["comment"] or ""


def _recipes(text: str) -> list[str]:
    block = re.search(r"^recipe:.*\n((?:  .*\n?)+)", text, re.MULTILINE)
    sets = re.findall(r"^  (\w+):", block[1], re.MULTILINE) if block else []
    if not sets:
        return []
    said = f"Its own training, that of its paper, by data set: {', '.join(sets)}"
    return [*_wrapped(f"{said}; recipe=common gives all methods the same."), ""]


def _papers(name: str) -> list[str]:
    folder = conf_folder() / "rows"
    near = [path.stem for path in sorted(folder.glob("*.yaml")) if _mentions(path, name)]
    found = [(paper, _rows(paper, name)) for paper in load_papers(papers=near)]
    lines: list[str] = []
    for paper, rows in sorted(
        (pair for pair in found if pair[1]), key=lambda pair: (pair[0].name != name, pair[0].name)
    ):
        lines += _wrapped(f"Paper {paper.name}: {paper.title}. {paper.authors}. {paper.venue}")
        lines += [f"  https://arxiv.org/abs/{paper.arxiv}"] if paper.arxiv else []
        lines += [f"  {paper.code}"] if paper.code else []
        several = f"{len(rows)} variants of its rows run" if len(rows) > 1 else "one of its rows runs"
        lines.append(f"  {several} this method, for example:")
        lines += [f"    python -m prunebench experiment={row.name}" for row in rows[:MAX_ROWS]]
        lines += [f"    all of them: python scripts/rows.py list {paper.name}", ""]
    return lines or ["No row of a paper runs it."]


def _mentions(path: Path, name: str) -> bool:
    return re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) is not None


def _rows(paper: Paper, name: str) -> list[Row]:
    parts = [part for row in paper.rows for part in row.parts]
    return [part for part in parts if part.overrides is not None and part.overrides.get("method") == name]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
