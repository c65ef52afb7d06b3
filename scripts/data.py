"""Check or download data sets.

    python scripts/data.py check                     every data set that is there: layout, checksums, counts
    python scripts/data.py check cifar10 mnist       these; exit code 1 if one is missing, broken or needs a value
    python scripts/data.py get cifar10               download, then check
    python scripts/data.py check imagenet dataset.folder=imagenet-sample dataset.allow_incomplete=true

The data folder is --data, else $PRUNEBENCH_DATA, else data/. $PRUNEBENCH_MIRROR, an address with the same layout
as the data folder, replaces the official addresses.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from prunebench.config import named
from prunebench.config.groups import conf_folder
from prunebench.data.files import MissingData
from prunebench.errors import Parser, UserError, here, nearest, program

CONF = conf_folder() / "dataset"


class NeedsValue(UserError):
    """A data set whose configuration leaves a value to its user."""


def build(name: str, given: list[str]) -> Any:
    """The data set object of ``conf/dataset/<name>.yaml`` with the settings ``dataset.key=value`` on top.

    Raises:
        UserError: a name, key or value is wrong, or a value is missing.
    """
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    if name not in names:
        raise UserError(f"there is no data set {name}; known: {', '.join(names)}{nearest(name, names)}")
    return named.build("dataset", settings(name, given))


def settings(name: str, given: list[str]) -> dict[str, Any]:
    """What the configuration says with ``given`` on top, as plain data without a gap."""
    config = OmegaConf.load(CONF / f"{name}.yaml")
    OmegaConf.set_struct(config, True)
    try:
        merged = OmegaConf.merge(config, OmegaConf.from_dotlist(given).get("dataset", {}))
        missing = sorted(OmegaConf.missing_keys(merged))
        found: Any = OmegaConf.to_container(merged, resolve=True)
    except ConfigKeyError as error:
        key = error.full_key
        known = f"it has {', '.join(config)}{nearest(str(key), config)}"
        raise UserError(f"dataset.{key} is no setting of {name}; {known}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(given)} cannot be read: {' '.join(str(error).split())}") from None
    if missing:
        values = " ".join(f"dataset.{key}=..." for key in missing)
        raise NeedsValue(f"a value must be given: python scripts/data.py check {name} {values}")
    return dict(found)


STATES: dict[type[UserError], str] = {MissingData: "missing", NeedsValue: "needs"}


def describe(data: Any) -> str:
    """One line: counts, seeds, classes and the beginnings of the hashes."""
    parts = []
    for key, value in data.fingerprint().items():
        if key != "name":
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
            parts.append(f"{key} {shown[:12] if key.endswith('sha256') else shown}")
    return ", ".join(parts)


def report(name: str, given: list[str], root: Path, *, download: bool) -> str:
    """Set up one data set and print one line about it; returns ok, missing, needs or broken."""
    try:
        data = build(name, given)
        data.setup(root, download=download)
    except UserError as error:
        state, text = STATES.get(type(error), "broken"), str(error)
    else:
        state, text = "ok", describe(data)
    print(f"{name:14} {state:8} {text}")
    return state


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("check", "get"))
    parser.add_argument("words", nargs="*", metavar="name | dataset.key=value")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PRUNEBENCH_DATA") or "data"))
    given = parser.parse_args(arguments)
    names = [word for word in given.words if "=" not in word]
    values = [word for word in given.words if "=" in word]
    for word in values:
        if not word.startswith("dataset."):
            parser.error(f"settings are written dataset.key=value, as for a run, got {word}")
    if not names and (values or given.command == "get"):
        parser.error(f"{' '.join(values) or 'get'} needs the name of a data set")
    fine = {"ok"} if names else {"ok", "missing", "needs"}
    names = names or sorted(path.stem for path in CONF.glob("*.yaml"))
    states = {report(name, values, given.data, download=given.command == "get") for name in names}
    return 0 if states <= fine else 1


if __name__ == "__main__":
    program(main)
