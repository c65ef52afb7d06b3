"""A row as an option of the config group ``experiment``: the node that Hydra merges, and what the run carries along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.identity import PLACEMENT
from prunebench.rows.row import Row

GROUP = "experiment"

NEUTRAL = (
    *(GROUP, "seed", "paths", "logger", "latency", "hydra", "model.pretrained", "model.pretrained_sha256"),
    *(f"trainer.{key}" for key in PLACEMENT),
)
"""A run with other values of these still reproduces its row."""


def config_node(row: Row, arguments: Sequence[str]) -> dict[str, Any]:
    """The overrides of ``row`` as a configuration for the package ``_global_``.

    Args:
        row: one that can run.
        arguments: of the command line. Hydra lets them win; a ``schedule`` among them also takes away the row's
            phases, which belong to the row's schedule and would be added to the other one.
    """
    assert row.overrides is not None
    keys = [argument.lstrip("+~").split("=", 1)[0].split("@")[0] for argument in arguments]
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
