"""A row as an option of the config group ``experiment``: the node that Hydra merges, and what the run carries along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunebench.config.identity import PLACEMENT
from prunebench.rows.row import Row

GROUP = "experiment"

NEUTRAL = (
    *(GROUP, "seed", "paths", "logger", "latency", "objective", "hydra"),
    *(f"trainer.{key}" for key in PLACEMENT),
)
"""A run with other values of these still reproduces its row."""
CHECKPOINT = ("model.pretrained", "model.pretrained_sha256")
"""So does one that starts from a checkpoint, but only where that replaces the row's pretraining: see :func:`settle`."""


def config_node(row: Row, arguments: Sequence[str]) -> dict[str, Any]:
    """The overrides of ``row`` as a configuration for the package ``_global_``.

    Args:
        row: one that can run.
        arguments: of the command line. Hydra lets them win; a ``schedule`` among them also takes away the row's
            phases, which belong to the row's schedule and would be added to the other one.
    """
    assert row.overrides is not None
    keys = [_key(argument) for argument in arguments]
    dropped = {"schedule"} & set(keys)
    groups = {key: value for key, value in row.overrides.items() if "." not in key and key not in dropped}
    node: dict[str, Any] = {"defaults": [*({f"override /{key}": value} for key, value in groups.items()), "_self_"]}
    for key, value in row.overrides.items():
        *path, last = key.split(".")
        if path and path[0] not in dropped:
            place = node
            for part in path:
                place = place.setdefault(part, {})
            old = place.get(last)
            place[last] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else _plain(value)
    changed = [
        argument
        for argument, key in zip(arguments, keys, strict=True)
        if "=" in argument and not any(key == name or key.startswith(f"{name}.") for name in NEUTRAL)
    ]
    node["row"] = _plain(_expected(row) | {"changed": changed})
    return node


def settle(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` (resolved) with a checkpoint taken off the list of changes if it replaces a pretraining of the row.

    A phase in which the method acts is not replaced but started from the checkpoint, and so is a row that trains from
    random weights: both are other experiments than the row.
    """
    row = config.get("row") or {}
    if not row.get("changed"):
        return dict(config)
    phases = config["schedule"]["phases"].values()
    replaced = any(phase.get("pretrain") and phase.get("epochs") and not phase.get("active") for phase in phases)
    changed = [argument for argument in row["changed"] if not replaced or _key(argument) not in CHECKPOINT]
    return {**config, "row": {**row, "changed": changed}}


def _key(argument: str) -> str:
    """The key of ``key=value``, ``+key=value``, ``~key`` or ``key@place=value``."""
    return argument.lstrip("+~").split("=", 1)[0].split("@")[0]


def _expected(row: Row) -> dict[str, Any]:
    """What a run carries of its row into ``result.json``."""
    return {
        "id": row.name,
        "paper": row.paper,
        "table": row.table,
        "setting": row.setting,
        "kind": row.kind,
        "convention": row.convention,
        "tolerance": row.tolerance,
        "source": row.mark,
        "reported": dict(row.reported),
    }


def _plain(value: Any) -> Any:
    """A copy of plain lists and dicts. Text from outside stays text: OmegaConf would act on ``${…}`` in it."""
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
