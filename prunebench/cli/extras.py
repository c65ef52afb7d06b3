"""Launchers and sweepers of Hydra that come with the extra ``sweep``: what is missing where one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXTRA = "sweep"
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
        "ray": "hydra-ray-launcher",
        "ray_aws": "hydra-ray-launcher",
    },
    "hydra/sweeper": {"optuna": "hydra-optuna-sweeper"},
}
"""Group of Hydra -> option -> the package that brings it."""


def needed(group: str, name: str, known: Sequence[str], *, key: str = "") -> str:
    """One sentence on the package that ``group=name`` needs; an empty text if no extra brings it.

    Args:
        known: what the group can be with what is installed.
        key: what the user calls the group; empty = as Hydra does.
    """
    package = PACKAGES.get(group, {}).get(name)
    if package is None or name in known:
        return ""
    key = key or group
    other = f", or take {key}={known[0]}" if known else ""
    return f"{key}={name} needs the package {package}: pip install 'prunebench[{EXTRA}]'{other}"
