"""Tensors on disk with their checksum: one safetensors file, no pickle. See :mod:`prunebench.disk.seal`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prunebench.disk.atomic import write_bytes
from prunebench.disk.seal import KEY, Damaged, check_seal, text_sha256


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Checksum of the names, shapes, types and values in ``state``, 64 hex digits."""
    whole = hashlib.sha256()
    for name, value in sorted(state.items()):
        whole.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def to_sealed(state: Mapping[str, Tensor], *, after: str = "") -> bytes:
    """``state`` as a safetensors file whose header holds its checksum."""
    # safetensors refuses shared memory and foreign layouts; a contiguous copy has neither
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    # one entry: their order in the file is not that in which they are given
    return save(copies, metadata={KEY: f"{text_sha256(tensors_sha256(copies), after)} {after}"})


def from_sealed(content: bytes) -> tuple[dict[str, Tensor], bool | None, str]:
    """The tensors of a safetensors file, whether they fit its checksum, None if it has none, and ``after``.

    Raises:
        ValueError: it is no safetensors file.
    """
    try:
        state = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        known, _, after = str((header.get("__metadata__") or {}).get(KEY, "")).partition(" ")
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return state, known == text_sha256(tensors_sha256(state), after) if known else None, after


def write_tensors(path: Path, state: Mapping[str, Tensor], *, after: str = "") -> None:
    """Write ``state`` with its checksum."""
    write_bytes(path, to_sealed(state, after=after))


def read_tensors(path: Path, *, after: str | None = None) -> dict[str, Tensor]:
    """The tensors in ``path``.

    Raises:
        Damaged: it is missing, no safetensors file, not what was written, or made from something else.
    """
    try:
        state, same, made_from = from_sealed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__})") from None
    check_seal(path, bool(same), made_from, after)
    return state
