"""The same command again and again: what it does, and the numbers that must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunebench.config.identity import run_folder
from prunebench.core.result import is_complete, read_result
from prunebench.run import assemble, runner
from tests.kit import SHORT, configure

COMMAND = (*SHORT, "model=lenet300_100", "method=fpgm", "method.prune_ratio=0.5", "seed=3")


class PowerCut(Exception):
    """Stands for the end of a process in the middle of an epoch."""


def go_on(outputs: Path, *more: str) -> tuple[dict[str, Any], Path]:
    """What the command does: tell a complete run's result, or carry the run out."""
    config, text = configure(outputs, *COMMAND, *more)
    config = assemble.identified(config)
    folder = run_folder(config)
    return (read_result(folder) if is_complete(folder) else runner.execute(config, text, folder)), folder


def numbers(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that a result says but times and places, and the net."""
    keys = ("status", "metrics", "cost", "budget", "equivalence", "guarantee", "data", "phases", "net_sha256")
    files = {name: (folder / "model" / name).read_bytes() for name in ("net.yaml", "plan.json", "weights.safetensors")}
    return {**untimed({key: result[key] for key in keys}), **files}


def untimed(value: Any) -> Any:
    """``value`` without what is measured with a clock."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if "seconds" not in key}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Say which number differs."""
    for key, value in expected.items():
        assert found[key] == value, key
