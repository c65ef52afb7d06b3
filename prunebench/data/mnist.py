"""MNIST and Fashion-MNIST: 28x28 grey pictures in idx files, plain or gzipped."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunebench.data.download import Remote, fetch
from prunebench.data.files import checked, gunzip, not_found, remedy
from prunebench.data.memory import MemoryData, Raw
from prunebench.errors import UserError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 8  # the third byte of an idx file names its type; the fourth counts the dimensions


def parse_idx(content: bytes, path: Path) -> Tensor:
    """The array in an idx file of unsigned bytes.

    Args:
        content: two zero bytes, type, number of dimensions, each dimension as big-endian uint32, then the data.
        path: only for the message.

    Raises:
        UserError: it is not such a file, or its length does not fit its header.
    """
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise UserError(f"{path} is not an idx file of bytes: it begins with {content[:4].hex(' ')}")
    num_dims = content[3]
    start = 4 + 4 * num_dims
    if len(content) < start:
        raise UserError(f"{path} is truncated: its header needs {start} bytes, it has {len(content)}")
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    data = np.frombuffer(content, np.uint8, offset=start)
    if len(data) != math.prod(shape):
        raise UserError(f"{path} is broken: its header announces {shape}, it holds {len(data):,} bytes")
    return torch.from_numpy(data.reshape(shape).copy())


class MNIST(MemoryData):
    """Handwritten digits, 60,000 training and 10,000 test pictures (LeCun et al. 1998).

    Reads ``MNIST/raw/<file>`` or ``MNIST/raw/<file>.gz``.

    Args:
        **common: the arguments of :class:`~prunebench.data.memory.MemoryData`.
    """

    shape = (10, 1, 28)
    class_names = [str(digit) for digit in range(10)]
    folder: ClassVar[str] = "MNIST/raw"
    bases: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    md5_packed: ClassVar[tuple[str, ...]] = (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    )
    md5_plain: ClassVar[tuple[str, ...]] = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )

    def fetch(self, root: Path) -> None:
        """Download the four gzipped files that are not there yet."""
        for name, md5 in zip(FILES, self.md5_packed, strict=True):
            folder = root / self.folder
            if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file():
                fetch(Remote(f"{self.folder}/{name}.gz", self.bases, f"md5:{md5}"), root)

    def read(self, root: Path) -> Raw:
        parts = [self._array(root, name, md5) for name, md5 in zip(FILES, self.md5_plain, strict=True)]
        train_images, train_labels, test_images, test_labels = parts
        return Raw(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long())

    def _array(self, root: Path, name: str, md5: str) -> Tensor:
        """One file; the checksum is taken of the unpacked content, so that any gzip level will do."""
        plain, packed = root / self.folder / name, root / self.folder / f"{name}.gz"
        if plain.is_file():
            path, content = plain, plain.read_bytes()
        elif packed.is_file():
            path, content = packed, gunzip(packed, remedy(self.name, packed))
        else:
            raise not_found(self.name, root, f"{name} (or {name}.gz) into {root / self.folder}")
        return parse_idx(checked(content, path, remedy(self.name, path), md5=md5), path)


class FashionMNIST(MNIST):
    """Pictures of clothes in MNIST's format (Xiao et al. 2017, arXiv 1708.07747), in ``FashionMNIST/raw``."""

    class_names = [
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ]  # fmt: skip
    folder = "FashionMNIST/raw"
    bases = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    )
    md5_packed = (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )
    md5_plain = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
