"""Trained weights by name: ``model.pretrained=<name>`` for an entry of ``checkpoints`` in the net's configuration.

The name brings along the file, its checksum and how its pictures were normalised, so that none of these can be wrong.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunebench.errors import UserError, nearest

KEY = "checkpoints"


def with_weights(cfg: DictConfig, given: Iterable[str]) -> DictConfig:
    """``cfg`` with the file and the settings that the name in ``model.pretrained`` stands for; of the names only this.

    An entry has ``url``, ``sha256`` (64 hex digits, or the first 8 or more), ``needs`` (key -> the value that its
    weights were trained with) and ``sets`` (key -> the value that it brings along). The file lies in
    ``${paths.data}/weights``, or will when the run starts, see :func:`prunebench.run.assemble.fetch_weights`.

    Args:
        cfg: the configuration, its expressions not yet resolved; stays as it is.
        given: what the user asked for, ``key=value``.

    Raises:
        UserError: no such name, or other settings than the weights need.
    """
    cfg = copy.deepcopy(cfg)
    known: Any = OmegaConf.to_container(OmegaConf.create(cfg.model.get(KEY) or {}), resolve=True)
    OmegaConf.set_struct(cfg, False)
    cfg.model.pop(KEY, None)
    name = OmegaConf.select(cfg, "model.pretrained")
    if isinstance(name, str) and name in known:
        entry = known[name]
        _refuse_others(cfg, name, entry["needs"])
        _bring(cfg, name, entry["sets"], {item.lstrip("+").partition("=")[0] for item in given})
        cfg.model[KEY] = {name: entry}
        cfg.model.pretrained = str(Path(str(cfg.paths.data)) / "weights" / entry["url"].rpartition("/")[2])
        cfg.model.pretrained_sha256 = cfg.model.pretrained_sha256 or entry["sha256"]
    elif isinstance(name, str) and re.fullmatch(r"\w+", name) and not Path(name).exists():
        names = f"it knows {', '.join(known)}{nearest(name, known)}" if known else "it knows none"
        raise UserError(
            f"model.pretrained={name} is no file and no name of weights for model={cfg.model.name}; {names}; "
            "a path or a URL is taken too"
        )
    return cfg


def _refuse_others(cfg: DictConfig, name: str, needs: Mapping[str, Any]) -> None:
    for key, wanted in needs.items():
        if (found := OmegaConf.select(cfg, key)) != wanted:
            raise UserError(
                f"the weights {name} of model={cfg.model.name} are for {key}={wanted}, got {found}; "
                f"use {key.removesuffix('.name')}={wanted} or other weights"
            )


def _bring(cfg: DictConfig, name: str, sets: Mapping[str, Any], given: set[str]) -> None:
    """Set what the weights bring along. A row with another value says so among its changes."""
    for key, wanted in sets.items():
        if (found := OmegaConf.select(cfg, key)) == wanted:
            continue
        if key in given:
            raise UserError(
                f"{key}={found} does not fit the weights {name}, which were trained with {wanted}; leave it out"
            )
        OmegaConf.update(cfg, key, wanted)
        if OmegaConf.select(cfg, "row.changed") is not None:
            cfg.row.changed.append(f"{key}={wanted}")
