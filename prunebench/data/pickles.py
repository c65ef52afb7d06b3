"""Reading the ``python`` version of CIFAR-like archives without running anything that is in them.

Those files are pickles of ``{b"data": uint8 array, b"labels": list}``, or with a list of arrays as ``data`` and with
names as numpy's text scalars. A pickle may name any function to call; this reader knows four names, puts harmless
stand-ins in their place, and refuses all others.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt


class _Bytes:
    """Stands for ``numpy.ndarray``: collects the state of an array of bytes."""

    def __init__(self) -> None:
        self.array: npt.NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Type) or is_fortran or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("only arrays of unsigned bytes in C order are read")
        if dtype.code != "u1":
            raise pickle.UnpicklingError(f"only arrays of unsigned bytes are read, not {dtype.code!r}")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape)


class _Type:
    """Stands for ``numpy.dtype``: keeps its code, for example ``u1`` (bytes) or ``U68`` (text of 68 characters)."""

    def __init__(self, code: bytes | str, *_flags: object) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes, and text is taken as little-endian."""


def _scalar(dtype: object, raw: object) -> str:
    """Stands for numpy's scalars: a text, 4 bytes a character, filled up with zeros."""
    if not isinstance(dtype, _Type) or not dtype.code.startswith("U") or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("of numpy's scalars only text is read")
    return raw.decode("utf-32-le").rstrip("\0")


def _reconstruct(_kind: object, _shape: object, _code: object) -> _Bytes:
    return _Bytes()


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Bytes,
    ("numpy", "dtype"): _Type,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not allowed") from None


def read_arrays(content: bytes) -> dict[bytes, Any]:
    """Read a pickled dictionary of byte arrays, lists, numbers and byte strings.

    Args:
        content: the file; strings written by Python 2 are read as ``bytes``.

    Returns:
        The dictionary, with ``bytes`` keys, arrays as uint8, also those inside a list.

    Raises:
        pickle.UnpicklingError: anything else is in the file, or it is damaged.
    """
    try:
        loaded = _Reader(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise pickle.UnpicklingError(str(error)) from error
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError(f"a dictionary was expected, not {type(loaded).__name__}")
    return {key.encode() if isinstance(key, str) else key: _plain(value) for key, value in loaded.items()}


def _plain(value: Any) -> Any:
    """``value`` with the arrays that its stand-ins have collected."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.array if isinstance(value, _Bytes) else value
