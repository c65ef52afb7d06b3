"""A file of weights of another project: read without running anything in it, by what it holds and not by its name."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from prunebench.errors import UserError
from prunebench.nets.wrappers import some

# how files begin that are packed; an archive of files, or one file
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}


def read(path: Path) -> object:
    """What the file holds; raises ``UserError`` if it is damaged, packed, or holds more than plain data."""
    with path.open("rb") as file:
        head = file.read(9)
    if packer := next((packer for start, packer in _PACKED.items() if head.startswith(start)), None):
        raise UserError(f"{path} is packed with {packer}; unpack it and give the file with weights that comes out")
    try:
        if _is_safetensors(head, path.stat().st_size):
            return load_file(path, device="cpu")
        _check_sums(path)
        with warnings.catch_warnings(), path.open("rb") as file:  # torch goes by the name, if it has one
            # from torch 2.14 on: that it looks at sparse weights, as it should
            warnings.filterwarnings("ignore", "Validating sparse tensor invariants")
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        return content
    except Exception as error:  # damaged files make the readers fail with any type of error
        raise UserError(_why_unreadable(path, str(error))) from error


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins with the length of a table, 8 bytes, the lowest first, and the table, which is JSON."""
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _check_sums(path: Path) -> None:
    """Raise ValueError if bytes have changed: torch's files are archives with checksums, which it does not compare.

    The sums are all 0 where the writer was told to leave them out.
    """
    if not zipfile.is_zipfile(path):
        return  # from before torch 1.6
    with zipfile.ZipFile(path) as archive:
        if any(item.CRC for item in archive.infolist() if item.file_size) and (wrong := archive.testzip()):
            raise ValueError(f"the checksum of {wrong} does not fit")


def _why_unreadable(path: Path, reason: str) -> str:
    blocked = re.search(r"GLOBAL (\S+) was not an allowed|whose module (\S+) is blocked", reason)
    if blocked:
        return (
            f"{path} holds pickled Python objects ({blocked[1] or blocked[2]}) and is not read, since a "
            "pickle can run any program; if you trust it, convert it where it was made: "
            f"torch.save(torch.load('{path.name}', weights_only=False)['state_dict'], 'weights.pt'), "
            "or .state_dict() in place of ['state_dict'] for a whole module"
        )
    if "TorchScript" in reason:
        return (
            f"{path} is a TorchScript program and no file of weights; convert it: "
            f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt')"
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
        if not any(name.endswith("data.pkl") for name in inside):
            return f"{path} is a zip archive of {some(inside)}; unpack it and give the file with weights inside"
    return f"{path} is damaged or is neither a torch nor a safetensors file; delete it and fetch it again"
