"""Which run a configuration is: its id, its folder, and what two runs may share. Plain dicts in, strings out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.config.groups import FROM_RUNS, RUN_FOLDERS
from prunebench.config.source import source_sha256, targets
from prunebench.disk.atomic import read_json
from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError

PLACEMENT = ("accelerator", "devices", "strategy", "num_threads", "progress")
"""Keys of ``trainer`` that say where a run computes, not what; but see :func:`identity` for ``devices``."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the numbers.

    Left out: ``paths``, ``logger``, ``seed`` (it names a folder below), where the trainer computes, the paper's values
    of the row, and whether the method is a control. Several devices count: each takes a batch of its own in each step.
    A local checkpoint counts by its content, and so do the run folders that a method, an attack or a teacher starts
    from (``run_folders`` of the group names the options), so that moving them changes nothing. Foreign code counts by
    its source, and the data by what they are (``data``, see :func:`prunebench.run.assemble.identified`).
    """
    kept = {key: value for key, value in config.items() if key not in ("paths", "logger", "seed", "row")}
    kept |= {group: _by_content(group, config[group]) for group in FROM_RUNS if config.get(group)}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key not in PLACEMENT}
    if (devices := config["trainer"].get("devices")) and devices > 1:
        kept["trainer"]["devices"] = devices
    # the label of a row is part of what the user asked for, its expected values are not
    kept["row"] = (config.get("row") or {}).get("id")
    # the name of a checkpoint is a place too
    kept["model"] = {key: value for key, value in config["model"].items() if key != "checkpoints"}
    pretrained = config["model"].get("pretrained")
    if pretrained and Path(pretrained).is_file():
        kept["model"] |= {"pretrained": file_sha256(Path(pretrained)), "pretrained_sha256": None}
    if sources := _sources(config):
        kept["sources"] = sources
    return kept


def _sources(settings: Any) -> dict[str, str | None]:
    """Dotted path of foreign code -> checksum of its source."""
    return {path: source_sha256(path) for path in sorted(set(targets(settings)))}


def _by_content(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    sha256 = run_sha256 if group == "method" else net_sha256  # others take nothing from a run but its net
    # that others are compared with a method changes none of its numbers
    found = {key: value for key, value in settings.items() if key not in (RUN_FOLDERS, "control")}
    for key in settings.get(RUN_FOLDERS) or ():
        if found.get(key):
            found[key] = sha256(Path(found[key])) or found[key]
    return found


def run_sha256(folder: Path) -> str | None:
    """Checksum of what a run has trained and saved, 64 hex digits; None if it has saved nothing.

    These are plan and weights, and the settings of its method, which say what its weights mean.
    """
    saved = [folder / "model" / name for name in ("plan.json", "weights.safetensors")]
    files = [*saved, *sorted(folder.glob("phases/*/weights.safetensors"))]
    sums = [f"{file.relative_to(folder)} {file_sha256(file)}" for file in files if file.is_file()]
    if sums and (meaning := _method_of(folder)):
        sums.append(f"method {meaning}")
    return hashlib.sha256("\n".join(sums).encode()).hexdigest() if sums else None


def net_sha256(folder: Path) -> str | None:
    """Checksum of the saved net in a run folder or its ``model``, 64 hex digits; None if there is none."""
    for place in (folder / "model", folder):
        files = [place / name for name in ("net.yaml", "plan.json", "weights.safetensors")]
        if all(file.is_file() for file in files):
            sums = [f"{file.name} {file_sha256(file)}" for file in files]
            return hashlib.sha256("\n".join(sums).encode()).hexdigest()
    return None


def _method_of(folder: Path) -> str:
    """Digest of the method's settings in the result of a run, without what it started from itself; empty if unknown."""
    file = folder / "result.json"
    try:
        settings = read_json(file)["method"]["settings"] if file.is_file() else None
    except (UserError, KeyError, TypeError):  # who reads the folder will say so
        return ""
    if not isinstance(settings, Mapping):
        return ""
    left_out = {RUN_FOLDERS, "control", *(settings.get(RUN_FOLDERS) or ())}
    return digest({key: value for key, value in settings.items() if key not in left_out})


def digest(value: Any) -> str:
    """12 hex digits of the SHA-256 of canonical JSON; keys set to null count as absent.

    So an option that is new and off does not rename the runs that were made before it existed.
    """
    text = json.dumps(_set(value), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _set(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _set(item) for key, item in value.items() if item is not None}
    return [_set(item) for item in value] if isinstance(value, list | tuple) else value


def run_folder(config: Mapping[str, Any]) -> Path:
    """``<outputs>/runs/<method>-<model>-<dataset>[-<row>]/<id>/seed_<n>``."""
    names = [config[group]["name"] for group in ("method", "model", "dataset")]
    row = (config.get("row") or {}).get("id")
    outputs = Path(config["paths"]["outputs"])
    return outputs / "runs" / run_place(names, row, digest(identity(config)), config["seed"])


def run_place(names: Sequence[str], row: str | None, run_id: str, seed: int) -> Path:
    """``<method>-<model>-<dataset>[-<row>]/<id>/seed_<n>``; ``names`` are the first three."""
    label = "-".join(slug(name) for name in [*names, *([row] if row else [])])
    return Path(label) / run_id / f"seed_{seed}"


def dense_folder(config: Mapping[str, Any], phase: Mapping[str, Any]) -> Path:
    """Where the pretraining that is the same for all methods is kept: ``<outputs>/dense/…/seed_<n>``."""
    whole = identity(config)
    shared = {key: whole[key] for key in ("dataset", "model", "trainer")}
    shared["data"] = (whole.get("data") or {}).get("dataset")
    shared["sources"] = _sources([shared["dataset"], shared["model"]]) or None
    # the recipes of other phases do not matter to this one
    shared["dataset"] = {key: value for key, value in whole["dataset"].items() if key not in ("epochs", "recipe")}
    label = f"{slug(config['model']['name'])}-{slug(config['dataset']['name'])}"
    outputs = Path(config["paths"]["outputs"])
    return outputs / "dense" / label / digest({**shared, "phase": dict(phase)}) / f"seed_{config['seed']}"


def slug(name: str) -> str:
    """``name`` as a folder name: letters, digits, ``.``, ``_``; at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(name)).strip("._")[:60] or "unnamed"
