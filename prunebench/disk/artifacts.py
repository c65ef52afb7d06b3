"""What a run has finished, on disk: JSON values, the tensors of a phase, the predictions of a stage."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunebench.disk.atomic import plain, read_json, write_json
from prunebench.errors import UserError

T = TypeVar("T")


def once(path: Path, make: Callable[[], T]) -> T:
    """The JSON value in ``path``: made and written the first time, read afterwards."""
    if path.exists():
        return read_json(path)  # type: ignore[no-any-return]
    value = make()
    write_json(path, value)
    return plain(value)  # type: ignore[no-any-return]


def once_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in ``path``: made and written the first time, read afterwards."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, make())
    return load_file(path)


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    # safetensors refuses shared memory and foreign layouts; a contiguous copy has neither
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, temporary)
    temporary.replace(path)


def load_tensors(path: Path, *, net: nn.Module, method: nn.Module | None = None) -> nn.Module:
    """Read ``net.*`` (and ``method.*``) of a phase's file into the modules, strictly; returns ``net``."""
    state = load_file(path)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    confidence, prediction = probs.max(1)
    arrays: dict[str, Any] = {
        "label": labels.numpy().astype(np.int16),
        "prediction": prediction.numpy().astype(np.int16),
        "confidence": confidence.numpy().astype(np.float32),
        "correct": (prediction == labels).numpy(),
    }
    doubts = {name: score.numpy().astype(np.float32) for name, score in (scores or {}).items()}
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **(doubts | arrays))
    temporary.replace(path)


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
