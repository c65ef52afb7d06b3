"""YAML files beside a result, which somebody else may have written: plain data, measured before it is unfolded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunebench.errors import UserError

MAX_BYTES = 1 << 21
"""Of one file; the largest net that a run has saved needs a tenth of it."""
MAX_DEPTH = 20
"""Tables and lists inside each other."""

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in ``path``. Interpolations stay the texts that they are.

    Raises:
        UserError: it is no readable file, too large or too deep, holds an alias (a few of them unfold to more than any
            memory holds), or is no table of plain data.
    """
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise UserError(f"{path} is damaged (no file of at most {MAX_BYTES:,} bytes); write it again")
        text = path.read_text(encoding="utf-8")
        _check(text)
        content: Any = OmegaConf.to_container(OmegaConf.create(text))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); write it again") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is damaged (it is no table with names as keys); write it again")
    return content


def to_yaml(content: Mapping[str, Any]) -> str:
    """``content`` as :func:`read_yaml` reads it.

    Raises:
        UserError: it is no plain data.
    """
    try:
        return OmegaConf.to_yaml(OmegaConf.create(dict(content)))
    except OmegaConfBaseException as error:
        raise UserError(f"only plain data can be saved, {error}") from None


def _check(text: str) -> None:
    """Aliases and depth, from the events alone, so that nothing is built yet."""
    depth = 0
    events = yaml.parse(text, Loader=_Parser)
    start = next((event for event in events if isinstance(event, yaml.NodeEvent)), None)
    if not isinstance(start, yaml.MappingStartEvent):
        raise ValueError("it is no table")
    depth = 1
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it holds the alias {event.anchor!r:.50}")
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} tables and lists inside each other")
