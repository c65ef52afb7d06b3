"""Rows of the papers' tables: ``conf/rows/<paper>.yaml`` as data; one that can run is ``experiment=<paper>-<row>``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from prunebench.config.groups import conf_folder
from prunebench.errors import UserError, nearest
from prunebench.rows.compare import compare
from prunebench.rows.experiment import GROUP, config_node, settle
from prunebench.rows.parse import build_paper
from prunebench.rows.printed import Contradiction, check_derived
from prunebench.rows.read_yaml import read_rows
from prunebench.rows.row import Paper, Row

__all__ = [
    "Contradiction",
    "Paper",
    "Row",
    "check_derived",
    "compare",
    "compose",
    "find",
    "load",
    "load_papers",
    "register",
]


# ------------------------------------------------------------------------------------------------ reading the files
def load(folder: Path | None = None, papers: Sequence[str] | None = None) -> list[Row]:
    """All rows in the order of their files.

    Args:
        folder: of the rows files; None = ``conf/rows``.
        papers: names of the files to read; None = all.

    Raises:
        UserError: a file, row or value that is not what it must be.
    """
    return [row for paper in load_papers(folder, papers) for row in paper.rows]


def load_papers(folder: Path | None = None, papers: Sequence[str] | None = None) -> list[Paper]:
    """The papers with their rows; see :func:`load`."""
    folder = folder or conf_folder() / "rows"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    for name in papers or ():
        if name not in names:
            known = f"; there are those of {', '.join(names)}" if names else f"; {folder} holds none"
            raise UserError(f"there are no rows of the paper {name}{known}{nearest(name, names)}")
    return [_paper(folder, name) for name in (names if papers is None else papers)]


def find(name: str) -> Row:
    """The row or arm called ``name``.

    Raises:
        UserError: there is none.
    """
    found = load(papers=_papers_of([name]))
    for row in found:
        for part in (row, *row.arms):
            if part.name == name:
                return part
    known = [part.name for row in load() for part in row.parts]
    raise UserError(f"there is no row {name}{nearest(name, known)}")


@cache
def _paper(folder: Path, name: str) -> Paper:
    content = _content(folder, name)

    def recipes(wanted: str) -> Mapping[str, Any] | None:
        paper, _, recipe = wanted.rpartition("/")
        source = content if not paper else _content(folder, paper)
        found: Mapping[str, Any] | None = (source.get("recipes") or {}).get(recipe)
        return found

    return build_paper(name, content, recipes)


@cache
def _content(folder: Path, name: str) -> dict[str, Any]:
    return read_rows(folder / f"{name}.yaml")


# ------------------------------------------------------------------------------------------- experiment=<paper>-<row>
def register(arguments: Sequence[str], own: Path | None = None) -> None:
    """Make the rows that ``arguments`` ask for options of the config group ``experiment``.

    Nothing is read where no argument starts with ``experiment``.

    Args:
        arguments: of the command line.
        own: the user's own folder of configuration files (``--config-dir``); what ``own/experiment`` has is no row.

    Raises:
        UserError: a row that does not exist, that cannot run (with the reason), or a pattern without a match.
    """
    given = [argument for argument in arguments if argument.lstrip("+").split("=", 1)[0] == GROUP]
    if not given:
        return
    from hydra.core.config_store import ConfigStore

    mine = [path.stem for path in (own / GROUP).glob("*.yaml")] if own else []
    asked = [pattern for argument in given for pattern in _patterns(argument)]
    wanted = [pattern for pattern in asked if not any(fnmatchcase(name, pattern) for name in mine)]
    parts = [part for row in load(papers=_papers_of(wanted)) for part in row.parts]
    for pattern in wanted:
        _check(pattern, parts)
    for part in parts:
        if part.overrides is not None and any(fnmatchcase(part.name, pattern) for pattern in wanted):
            node = config_node(part, arguments)
            ConfigStore.instance().store(group=GROUP, name=part.name, node=node, package="_global_")


def compose(row: Row, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The resolved configuration that runs ``row``, as plain data; ``overrides`` win, as on the command line.

    Raises:
        UserError: the row cannot run.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from prunebench.config import recipes

    recipes.register()
    arguments = [f"{GROUP}={row.name}", *overrides]
    register(arguments)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_container(hydra_compose("config", overrides=arguments), resolve=True)
    assert isinstance(config, dict)
    return settle({str(key): value for key, value in config.items()})


def _patterns(argument: str) -> list[str]:
    """Names and globs in ``experiment=a``, ``experiment=a,b`` or ``experiment=glob(a*)``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, Glob
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException as error:
        raise UserError(f"{argument} is no override: {str(error).splitlines()[0]}") from None
    match value:
        case None | "":
            raise UserError(f"{argument}: leave it out")
        case Glob():
            return [str(pattern) for pattern in value.include]
        case ChoiceSweep():
            return [str(getattr(item, "text", item)) for item in value.list]
        case str():
            return [value]
    raise UserError(f"{argument} must name rows: experiment=fpgm-t1_resnet56_only40 or experiment='glob(fpgm-*)'")


def _papers_of(patterns: Sequence[str]) -> list[str]:
    """The files that rows with these names or globs are in; file names are short, so reading stays fast."""
    stems = sorted(path.stem for path in (conf_folder() / "rows").glob("*.yaml"))

    def fits(stem: str, pattern: str) -> bool:
        literal = pattern.split("*")[0].split("?")[0].split("[")[0]
        start = f"{stem}-"
        return literal.startswith(start) or start.startswith(literal)

    return [stem for stem in stems if any(fits(stem, pattern) for pattern in patterns)]


def _check(pattern: str, parts: Sequence[Row]) -> None:
    """Refuse a name that is no row or cannot run, and a glob without a row that runs."""
    if any(character in pattern for character in "*?["):
        matches = [part for part in parts if fnmatchcase(part.name, pattern)]
        if not any(part.overrides is not None for part in matches):
            why = f"; its {len(matches)} rows cannot run, for example {matches[0].pending}" if matches else ""
            raise UserError(f"experiment=glob({pattern}) matches no row that runs{why}")
        return
    by_name = {part.name: part for part in parts}
    if pattern not in by_name:
        arms = [part.name for part in parts if part.name.startswith(f"{pattern}-")]
        known = arms or [part.name for row in load() for part in row.parts]
        hint = f"; it has the arms {', '.join(arms)}" if arms else nearest(pattern, known)
        raise UserError(f"experiment={pattern} is no row{hint}; python scripts/rows.py list shows all")
    row = by_name[pattern]
    if row.overrides is None:
        source = f"; its own row is {row.same_as}" if row.same_as else ""
        raise UserError(f"experiment={pattern} cannot run: {row.pending}{source}")
