"""Which test examples a net gets right, one bit an example: what a published run keeps of its predictions."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunebench.errors import UserError

FILE = "correct.npz"


def labels_sha256(labels: NDArray[np.integer]) -> str:
    """Checksum of the labels ``[n]`` in their order, that of ``data.test_labels_sha256`` in a result."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def write_bits(path: Path, correct: NDArray[np.bool_], labels: str) -> None:
    """Write ``correct`` ``[n]`` as bits, with their number and the checksum of the labels that they belong to."""
    np.savez_compressed(path, bits=np.packbits(correct), count=np.int64(len(correct)), labels_sha256=np.str_(labels))


def read_bits(path: Path) -> tuple[NDArray[np.bool_], str]:
    """Correctness ``[n]``, and the checksum of the labels.

    Raises:
        UserError: the file is missing, damaged, or not one that :func:`write_bits` wrote.
    """
    try:
        # from memory: of a damaged file numpy would leave the handle open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            bits, count, labels = arrays["bits"], int(arrays["count"]), str(arrays["labels_sha256"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.name} cannot be read ({type(error).__name__})") from None
    if bits.dtype != np.uint8 or bits.ndim != 1 or not 0 <= count <= 8 * len(bits) < count + 8:
        raise UserError(f"{path.name} does not hold one bit per example")
    return np.unpackbits(bits, count=count).astype(np.bool_), labels
