"""The harmless reader of python batches, against numpy's own unpickling."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from prunebench.data.pickles import read_arrays


def python2_batch(data: npt.NDArray[np.uint8], key: str, labels: list[int]) -> bytes:
    """A batch as Python 2 with protocol 2 wrote the official files: byte strings and ``numpy.core``."""

    def word(text: str) -> bytes:
        return b"U" + bytes((len(text),)) + text.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + word("b") + b"\x87R"
        b"(" + number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + word("u1") + number(0) + number(1) + b"\x87R"
        b"(" + number(3) + word("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        b"\x89T" + struct.pack("<i", data.size) + data.tobytes() + b"tb"
    )
    numbers = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + word("data") + array + word(key) + numbers + b"u."


def test_python2_batch() -> None:
    data = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    content = python2_batch(data, "fine_labels", [3, 1, 4, 1, 5])
    ours = read_arrays(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy has renamed what such files name
        theirs = pickle.loads(content, encoding="bytes")
    assert ours.keys() == theirs.keys() == {b"data", b"fine_labels"}
    assert np.array_equal(ours[b"data"], theirs[b"data"])
    assert np.array_equal(ours[b"data"], data)
    assert ours[b"data"].dtype == np.uint8
    assert ours[b"fine_labels"] == [3, 1, 4, 1, 5]


@pytest.mark.parametrize("protocol", [3, 4])
def test_batch_of_python3(protocol: int) -> None:
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = pickle.dumps({"data": data, "labels": [0, 1, 2]}, protocol)
    assert np.array_equal(read_arrays(content)[b"data"], data)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for content in (pickle.dumps({"data": Harmful(target)}), pickle.dumps(Harmful(target))):
        with pytest.raises(pickle.UnpicklingError, match="mkdir, which is not allowed"):
            read_arrays(content)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", None),
        (b"not a pickle", None),
        (pickle.dumps([1, 2]), "a dictionary was expected, not list"),
        (pickle.dumps({"data": np.zeros(3)}, 4), "only arrays of unsigned bytes are read, not 'f8'"),
        (pickle.dumps({"data": np.zeros((2, 2), np.uint8, order="F")}, 4), "C order"),
        (pickle.dumps({"data": np.array([object()])}, 4), "not allowed|unsigned bytes"),
        (python2_batch(np.zeros((2, 3), np.uint8), "labels", [1])[:-20], None),
    ],
)
def test_anything_else_is_refused(content: bytes, message: str | None) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        read_arrays(content)


def test_a_list_of_arrays_and_numpy_texts() -> None:
    """As in MiraBest's batches, under both names of numpy's module."""
    rows = [np.arange(4, dtype=np.uint8), np.ones(4, np.uint8)]
    content = pickle.dumps({"data": rows, "filenames": [np.str_("a.png"), np.str_("Ünï.png")]}, 3)
    for version in (content, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
        found = read_arrays(version)
        assert all(np.array_equal(one, other) for one, other in zip(found[b"data"], rows, strict=True))
        assert found[b"filenames"] == ["a.png", "Ünï.png"]


def test_other_scalars_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="of numpy's scalars only text is read"):
        read_arrays(pickle.dumps({"data": np.float64(1.0)}, 3))
