"""What another run has stored, read as data from anybody: tensors, and settings on a list of what may be called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunebench.config import named
from prunebench.config.identity import slug
from prunebench.core.method import Method
from prunebench.core.result import is_complete, read_result
from prunebench.disk.finished import WEIGHTS
from prunebench.disk.paths import user_path
from prunebench.disk.seal import Damaged
from prunebench.disk.tensors import read_tensors
from prunebench.errors import UserError

OPTION = "method.posterior"
"""Where a user names the folder; errors begin with it."""


def finished_folder(folder: str) -> Path:
    """The folder of a finished run.

    Raises:
        UserError: it is none.
    """
    path = user_path(folder)
    if not is_complete(path):
        raise UserError(f"{OPTION}={folder} is no folder of a finished run (.../seed_<n>)")
    return path


def phase_states(folder: str) -> Iterator[dict[str, Tensor]]:
    """``net.*`` and ``method.*`` at the end of each phase of the run, as far as its folder has them.

    Raises:
        UserError: no finished run, or a file is damaged.
    """
    path = finished_folder(folder)
    for phase in read_result(path).get("phases") or ():
        name = phase.get("name") if isinstance(phase, Mapping) else None
        if not isinstance(name, str) or slug(name) != name:
            raise UserError(f"{OPTION}={folder} has a phase without a name; run that run again")
        file = path / "phases" / name / WEIGHTS
        if not file.is_file():  # a dense net that runs share lies elsewhere
            continue
        try:
            yield read_tensors(file)
        except Damaged as error:
            raise UserError(f"{OPTION}: {error}; run that run again") from None


def method_of(folder: str) -> Method:
    """The method of the run, built from its settings; only what lies in this package is called.

    Raises:
        UserError: no finished run, or its settings build no method of this package.
    """
    result = read_result(finished_folder(folder))
    method = result.get("method")
    settings: Any = method.get("settings") if isinstance(method, Mapping) else None
    if not isinstance(settings, Mapping):
        raise UserError(f"{OPTION}={folder} does not say what its method was; run that run again")
    try:
        found: Method = named.build("method", settings, expects=Method, trust=False)
    except UserError as error:
        raise UserError(f"{OPTION}={folder}: its method cannot be built ({error})") from None
    return found


def load_fitting(net: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Put tensors of a stranger into ``net``, all of them.

    Raises:
        UserError: one is missing, left over, of another shape, or not finite.
    """
    own = net.state_dict()
    for name in {**own, **stored}:
        if name not in own or name not in stored or own[name].shape != stored[name].shape:
            raise UserError(f"{OPTION} is a run of another net: '{name}' is missing or differs")
        if not bool(stored[name].isfinite().all()):
            raise UserError(f"{OPTION} has numbers that are not finite in '{name}'")
    net.load_state_dict(dict(stored))
