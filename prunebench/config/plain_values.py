"""The values of a configuration that no constructor sees: those beside the groups, paths, and the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from prunebench.config.arguments import fit
from prunebench.config.ranges import Among, Range
from prunebench.errors import UserError

KEYS = {
    "schedule": ("name", "phases"),
    "paths": ("data", "outputs", "download"),
    "logger": ("name", "project", "online"),
}
"""Of the groups that are no arguments of an object."""


LOGGERS = ("csv", "tensorboard", "wandb")


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values of another type or outside their range.

    Raises:
        UserError: the first of them.
    """
    for group, known in KEYS.items():
        if strange := sorted({*config[group]} - {*known}):
            raise UserError(f"{group}.{strange[0]} is unknown; it can be {', '.join(known)}")
    fit(config["logger"].get("name"), Annotated[str, Among(LOGGERS)], "logger.name")
    paths, row = config["paths"], config.get("row")
    fit(config["seed"], Annotated[int, Range(low=0, below=2**31)], "seed")
    truths = {"latency": config["latency"], "paths.download": paths["download"]}
    truths |= {"logger.online": config["logger"].get("online", False)}
    for name, value in truths.items():
        fit(value, bool, name)
    texts = {f"paths.{key}": paths[key] for key in ("data", "outputs")}
    texts |= {f"model.{key}": config["model"].get(key) or "none" for key in ("pretrained", "pretrained_sha256")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise UserError(f"{name} must be text, got {value!r}")
    if row is not None and not isinstance(row, Mapping):
        raise UserError(f"row={row} is set by the rows themselves; ask for one with experiment=<paper>-<row>")
