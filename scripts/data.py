"""Check or download data sets.

    python scripts/data.py check                     every data set that is there: layout, checksums, counts
    python scripts/data.py check cifar10 mnist       these; exit code 1 if one is missing or broken
    python scripts/data.py get cifar10               download, then check
    python scripts/data.py check imagenet dataset.folder=imagenet-sample dataset.allow_incomplete=true

The data folder is --data, else $PRUNEBENCH_DATA, else data/. $PRUNEBENCH_MIRROR, an address with the same layout
as the data folder, replaces the official addresses.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from prunebench.config.groups import conf_folder
from prunebench.data.files import MissingData
from prunebench.errors import UserError, here, nearest

CONF = conf_folder() / "dataset"


def build(name: str, overrides: list[str]) -> Any:
    """The data set object of ``conf/dataset/<name>.yaml``."""
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    if name not in names:
        raise UserError(f"there is no data set {name}; known: {', '.join(names)}{nearest(name, names)}")
    changes = OmegaConf.from_dotlist(overrides).get("dataset", {})
    merged = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)
    config: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    config.pop("epochs", None)  # read by the schedules
    # not `instantiate`: it wraps every error of a constructor
    return get_class(config.pop("_target_"))(**config)


def describe(data: Any) -> str:
    """One line: counts, seeds, classes and the beginnings of the hashes."""
    parts = []
    for key, value in data.fingerprint().items():
        if key != "name":
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
            parts.append(f"{key} {shown[:12] if key.endswith('sha256') else shown}")
    return ", ".join(parts)


def report(name: str, overrides: list[str], root: Path, *, download: bool) -> str:
    """Set up one data set and print one line about it; returns ok, missing or broken."""
    try:
        data = build(name, overrides)
        data.setup(root, download=download)
    except UserError as error:
        state, text = "missing" if isinstance(error, MissingData) else "broken", str(error)
    else:
        state, text = "ok", describe(data)
    print(f"{name:14} {state:8} {text}")
    return state


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("check", "get"))
    parser.add_argument("words", nargs="*", metavar="name | dataset.key=value")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PRUNEBENCH_DATA") or "data"))
    given = parser.parse_args(arguments)
    names = [word for word in given.words if "=" not in word]
    overrides = [word for word in given.words if "=" in word]
    if given.command == "get" and not names:
        parser.error("get needs the name of a data set")
    fine = {"ok"} if names else {"ok", "missing"}
    names = names or sorted(path.stem for path in CONF.glob("*.yaml"))
    states = {report(name, overrides, given.data, download=given.command == "get") for name in names}
    return 0 if states <= fine else 1


if __name__ == "__main__":
    sys.exit(main())
