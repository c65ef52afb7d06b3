"""What a method's configuration file says where a run says nothing: results of older code lack newer options."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.config.groups import conf_folder
from prunebench.report import untrusted
from prunebench.rows.read_yaml import read_rows

_PART = re.compile(r"(\w+)@_here_")
"""An entry of the list of defaults: ``<folder>@_here_: <file>`` puts a shared part in this place."""


@functools.cache
def method_defaults(name: str, root: Path | None = None) -> Mapping[str, Any]:
    """The defaults of the method ``name`` as flat keys, ``method.<key>``, like the settings of a record.

    Nulls are absent, interpolations are the texts that they are. A method without a file, somebody else's, has none.

    Args:
        root: the folder of the configurations; default: that of this package.
    """
    folder = (root or conf_folder()) / "method"
    # by the listing: a name from a result never becomes a path
    file = {path.stem: path for path in folder.glob("*.yaml")}.get(name)
    return {} if file is None else dict(untrusted.flat(_composed(file, folder), "method"))


def _composed(file: Path, folder: Path) -> dict[str, Any]:
    """The parts that ``file`` starts from, with its own keys over them; a table is merged key by key."""
    own = read_rows(file)
    made: dict[str, Any] = {}
    for entry in own.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            made = _merged(made, _composed(folder / f"{entry}.yaml", folder))  # another method
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if part := _PART.fullmatch(str(key)):
                made = _merged(made, _composed(folder / part[1] / f"{value}.yaml", folder))
    return _merged(made, own)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
