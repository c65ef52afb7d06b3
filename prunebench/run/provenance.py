"""What a result says about its run before anything is measured: identity, command, software, machine, settings."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.config.identity import digest, identity
from prunebench.core.result import SCHEMA
from prunebench.run import runtime


def head(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The first fields of ``result.json``; the status is ``failed`` until there are numbers.

    Args:
        config: the resolved configuration.
        folder: of the run.
    """
    whole = identity(config)
    return {
        "schema": SCHEMA,
        "status": "failed",
        "run": {
            "id": digest(whole),
            "folder": str(folder),
            "command": f"python -m prunebench {shlex.join(sys.argv[1:])}".strip(),
            "seed": config["seed"],
            "config_hash": digest(whole),
            "started": now(),
            "git": runtime.git_state(),
            "versions": runtime.versions(),
            "hardware": runtime.hardware(),
        },
        "method": {"name": config["method"]["name"], "settings": whole["method"]},
        "model": {"name": config["model"]["name"], "settings": whole["model"]},
        "dataset": {"name": config["dataset"]["name"], "settings": whole["dataset"]},
        "schedule": {"name": config["schedule"]["name"]},
        **({"teacher": whole["teacher"]} if whole.get("teacher") else {}),
        "trainer": whole["trainer"],
        "row": (config.get("row") or {}).get("id"),
        "expected": config.get("row"),
    }


def now() -> str:
    """Time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
