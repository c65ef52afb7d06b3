"""What a run has finished, on disk: JSON values, the tensors of a phase, the predictions of a stage.

A finished step is read back where it is whole, and done again where it is not: nothing that is stored is believed
without its checksum.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunebench.disk.atomic import plain, remove, write_bytes
from prunebench.disk.seal import Damaged, file_sha256, read_value, write_value
from prunebench.disk.tensors import read_tensors, write_tensors
from prunebench.errors import UserError

log = logging.getLogger("prunebench")
T = TypeVar("T")


def whole(path: Path, read: Callable[[], T]) -> T | None:
    """What ``read`` finds in ``path``; None if it is not there, or damaged, which is said.

    Whoever gets None makes it again.
    """
    try:
        return read()
    except Damaged as error:
        if path.exists():
            log.warning("warning: %s; it is made again from the last good step", error)
        return None


def once(path: Path, make: Callable[[], T], *, after: str = "", beside: Sequence[Path] = ()) -> T:
    """The JSON value in ``path``: made and written the first time, read afterwards.

    Args:
        after: what the value depends on; a value that was made from something else is made again.
        beside: files in the same folder that ``make`` writes, if it does; they belong to the value.
    """
    found = whole(path, lambda: (read_value(path, after=after),))
    if found is not None:
        return found[0]  # type: ignore[no-any-return]
    for file in beside:
        remove(file)
    value = make()
    written = {file.name: file_sha256(file) for file in beside if file.exists()}
    write_value(path, value, after=after, beside=written)
    return plain(value)  # type: ignore[no-any-return]


def once_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]], *, after: str = "") -> dict[str, Tensor]:
    """The tensors in ``path``: made and written the first time, read afterwards."""
    found = whole(path, lambda: read_tensors(path, after=after))
    if found is None:
        write_tensors(path, make(), after=after)
        found = read_tensors(path, after=after)
    return found


def load_state(state: Mapping[str, Tensor], *, net: nn.Module, method: nn.Module | None = None) -> nn.Module:
    """Put ``net.*`` (and ``method.*``) of a phase's tensors into the modules, strictly; returns ``net``."""
    for prefix, module in (("net.", net), ("method.", method)):
        if module is not None:
            part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            module.load_state_dict(part)
    return net


def save_predictions(path: Path, probs: Tensor, labels: Tensor, scores: Mapping[str, Tensor] | None = None) -> None:
    """Per example: label, prediction, confidence, correctness; enough for paired tests and reliability diagrams.

    Args:
        probs: ``[samples, classes]``.
        labels: ``[samples]``.
        scores: uncertainties per example, ``[samples]`` each; ``confidence`` is the prediction's own and left out.
    """
    confidence, prediction = probs.max(1)
    arrays: dict[str, Any] = {
        "label": labels.numpy().astype(np.int16),
        "prediction": prediction.numpy().astype(np.int16),
        "confidence": confidence.numpy().astype(np.float32),
        "correct": (prediction == labels).numpy(),
    }
    doubts = {name: score.numpy().astype(np.float32) for name, score in (scores or {}).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(doubts | arrays))
    write_bytes(path, buffer.getvalue())


def load_correct(path: Path) -> NDArray[np.bool_]:
    """Per-example correctness ``[n]`` of stored predictions."""
    with np.load(path, allow_pickle=False) as arrays:
        correct: NDArray[np.bool_] = arrays["correct"]
    return correct


def load_predictions(path: Path) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    """Labels ``[n]`` and per-example correctness ``[n]`` of stored predictions.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["label"], arrays["correct"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__})") from None
