"""``predictions.npz`` of a run, read as a stranger's file: no pickles, bounded, and checked against itself."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.errors import UserError

NAME = "predictions.npz"
MAX_BYTES = 1 << 28
"""Of one unpacked array: the predictions of 60 million examples."""

Correct = NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """What the final net made of each test example.

    Attributes:
        correct: ``[n]``.
        confidence: ``[n]``, in [0, 1]; None if the run has none, as for a language model.
    """

    correct: Correct
    confidence: NDArray[np.float64] | None


def read_predictions(folder: Path, place: str) -> Predictions:
    """The predictions of a run.

    Args:
        folder: of the run. ``place``: the same for readers.

    Raises:
        UserError: the file is missing or is not what a run writes.
    """
    path = folder / NAME
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays.items())  # all of them, so that each checksum is compared
        correct, confidence = found["correct"], found.get("confidence")
    except Exception as error:  # damaged files make the readers fail with any type of error
        raise UserError(f"{place}/{NAME} cannot be read ({_why(error)})") from None
    if correct.ndim != 1 or correct.dtype != np.bool_ or not len(correct):
        raise UserError(f"{place}/{NAME} does not hold one truth value per example")
    if confidence is None:
        return Predictions(correct, None)
    if confidence.shape != correct.shape or confidence.dtype.kind != "f":
        raise UserError(f"{place}/{NAME} does not hold one confidence per example")
    sure: NDArray[np.float64] = confidence.astype(np.float64)
    if not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise UserError(f"{place}/{NAME} holds confidences outside of [0, 1]")
    return Predictions(correct, sure)


def _check_sizes(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if item.file_size > MAX_BYTES:
                raise UserError(f"{item.filename[:60]} has more than {MAX_BYTES:,} bytes")


def _why(error: Exception) -> Any:
    return error if isinstance(error, UserError) else type(error).__name__
