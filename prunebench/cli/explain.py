"""``--help method=fpgm``, ``--help schedule``, ``--help method.target_macs``: an option, a group or a key in full.

Read from the files of the options, their classes and the rows of papers.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prunebench.cli.help import NOTES, whole_run
from prunebench.cli.suggest import meant_key, meant_option
from prunebench.config.groups import GROUPS, NOT_ARGUMENTS, conf_folder, options
from prunebench.errors import UserError, here, nearest
from prunebench.rows import load_papers
from prunebench.rows.row import Paper, Row

WIDTH = 100
MAX_ROWS = 8
"""So many rows are named; all of them are listed by ``scripts/rows.py``."""
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s].*?))?(?: +# (?P<comment>.*))?$")
_OVERRIDE = re.compile(r"^ *- override /(\w+)@[\w.]+: *(\w+)", re.MULTILINE)
_PHASE = re.compile(r"^ *- phase@phases\.(\w+): *(\w+)", re.MULTILINE)
_FROM_RECIPE = re.compile(r"^\$\{recipe:\w+,\w+,(.*)\}$")
_PART = re.compile(r"^ *- part@_here_: *(\w+)", re.MULTILINE)
_PLAIN = ("defaults", "recipe", "schedules", "_target_", *NOT_ARGUMENTS["method"])
"""Keys that are said in words here, or that nobody sets."""


def topics(words: list[str]) -> list[str]:
    """What there is to say about the words beside ``--help``: options, groups and keys; a value says nothing.

    Raises:
        UserError: a word is none of them.
    """
    said = []
    for word in words:
        name, _, value = word.lstrip("+~").partition("=")
        group, _, key = name.partition(".")
        if word.startswith("-") or (group not in GROUPS and "=" in word):
            continue
        if name in (of_run := whole_run()):
            said.append("\n".join([of_run[name][0], *_wrapped(of_run[name][1], "    ")]))
            continue
        if group not in GROUPS:
            near = meant_option(name) or meant_key(name, _every_key(), GROUPS)
            raise UserError(f"--help explains groups, options and keys, such as method=fpgm, and {name} is none{near}")
        said.append(explain_key(group, key) if key else explain(group, value) if value else overview(group))
    return said


def overview(group: str) -> str:
    """The options of a group, each in one line."""
    known = options(group)
    width = max(map(len, known))
    lines = [f"{group}={NOTES.get(group, '')}", *(f"  {name:<{width}}  {text}" for name, text in known.items())]
    return "\n".join([*lines, "", f"  python -m prunebench --help {group}={next(iter(known))}   says more about one"])


def _every_key() -> list[str]:
    """The dotted keys of all options of all groups."""
    texts = [(group, _text(group, option)) for group in GROUPS for option in options(group)]
    found = [f"{group}.{key}" for group, text in texts for key in {**_keys_of(group, text), **_phase_keys(text)}]
    return list(dict.fromkeys(found))


def explain_key(group: str, key: str) -> str:
    """A key: its default and meaning, and which options of the group have it.

    Raises:
        UserError: none has.
    """
    found: dict[tuple[str, str], list[str]] = {}
    known: set[str] = set()
    for option in options(group):
        own = {**_keys_of(group, _text(group, option)), **_phase_keys(_text(group, option))}
        known |= own.keys()
        if key in own:
            found.setdefault(own[key], []).append(option)
    if not found:
        raise UserError(f"no option of {group} has the key {key}{nearest(key, known)}")
    lines = []
    for (value, comment), names in found.items():
        lines += [f"{group}.{key}={value}", *_wrapped(comment, "    "), *_wrapped(f"of {', '.join(names)}", "    ")]
    return "\n".join(lines)


def explain(group: str, name: str) -> str:
    """What the option is, its keys with their defaults; of a method also its schedules, its paper and its rows.

    Raises:
        UserError: there is no such option.
    """
    known = options(group)
    if name not in known:
        raise UserError(f"{group} has no option {name!r}{nearest(name, known)}; it can be {', '.join(known)}")
    text = _text(group, name)
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


def _text(group: str, option: str) -> str:
    return (conf_folder() / group / f"{option}.yaml").read_text(encoding="utf-8")


def _keys(group: str, text: str) -> list[str]:
    lines = _shown(group, _keys_of(group, text))
    phases = list(dict.fromkeys(name for name, _ in _PHASE.findall(text)))
    if phases:
        lines += ["", f"Each phase ({', '.join(phases)}) has:", *_shown(group, _of_all_phases(phases, text))]
    return lines or ["  none"]


def _shown(group: str, keys: Mapping[str, tuple[str, str]]) -> list[str]:
    lines = []
    for key, (value, comment) in keys.items():
        lines.append(f"  {group}.{key}={value}" if value else f"  {group}.{key}")
        lines += _wrapped(comment, "      ")
    return lines


def _keys_of(group: str, text: str) -> dict[str, tuple[str, str]]:
    """Dotted key -> default and comment."""
    found: dict[str, tuple[str, str]] = {}
    for key, value, comment in _lines(_with_parts(group, text)):
        before = found.pop(key, ("", ""))  # a later file says the default anew, and perhaps no more than that
        found[key] = (value, comment or before[1])
    return found


def _phase_keys(text: str) -> dict[str, tuple[str, str]]:
    """The same for the training of each phase of a schedule, ``phases.<name>.<key>``."""
    found = {}
    for name, kind in _PHASE.findall(text):
        for key, value, comment in _lines(_text("schedule/phase", kind)):
            own = _FROM_RECIPE.match(value)
            found[f"phases.{name}.{key}"] = (own[1] if own else value, comment)
    return found


def _of_all_phases(phases: Sequence[str], text: str) -> dict[str, tuple[str, str]]:
    """``phases.<name>.<key>`` once for all phases; where their defaults differ, each with its phase."""
    found = _phase_keys(text)
    told = {}
    for key in dict.fromkeys(key.split(".", 2)[2] for key in found):
        own = {name: found[f"phases.{name}.{key}"] for name in phases if f"phases.{name}.{key}" in found}
        values = {value for value, _ in own.values()}
        value = ", ".join(f"{value} ({name})" for name, (value, _) in own.items()) if len(values) > 1 else values.pop()
        told[f"phases.<name>.{key}"] = (value, next(iter(own.values()))[1])
    return told


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
            yield ".".join(path), match["value"] or "", match["comment"] or ""


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
