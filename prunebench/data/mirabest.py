"""MiraBest (Porter and Scaife 2023): 150x150 radio pictures of galaxies, Fanaroff-Riley class I or II.

The official batches are pickles of single pictures with the code of their class: the first digit is the class (1, 2,
3 = hybrid), the second how certain two astronomers were (0 or 1), the third the morphology. Trained and tested is on
the certain ones; uncertain and hybrid galaxies are further test sets.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.data.base import Batches
from prunebench.data.batches import Store, StoreBatches
from prunebench.data.download import Remote, fetch
from prunebench.data.files import UNREADABLE, checked, not_found, remedy
from prunebench.data.memory import MemoryData, Raw
from prunebench.data.pickles import read_arrays
from prunebench.data.rotation import Rotated, angles
from prunebench.errors import UserError

SIDE = 150
FOLDER = "MiraBest"
CONFIDENT: Mapping[int, int] = {0: 0, 1: 0, 2: 0, 5: 1, 6: 1}
"""Label in the files -> class; codes 100, 102, 104 are FR I, 200 and 201 FR II."""
FURTHER: Mapping[str, Mapping[int, int]] = {"uncertain": {3: 0, 4: 0, 7: 1}, "hybrid": {8: 0, 9: 1}}
"""The same of the further test sets; a hybrid's "class" says whether it is a certain one (300) or not (310)."""
BATCHES = (*(f"data_batch_{number}" for number in range(1, 8)), "test_batch")


@dataclass(frozen=True)
class Archive:
    """One official archive: its ``.tar.gz`` file, the folder in it, and the md5 of both and of each batch."""

    name: str
    md5: str
    folder: str
    sums: tuple[str, ...]


ARCHIVES = (
    Archive(
        "MiraBest_F_batches.tar.gz",
        "7d4e3a623d29db7204bce81676ee8ce2",
        "F_batches",
        (
            "f7a470b7367e8e0d0c5093d2cf266d54",
            "bb65ecd7e748e9fb789419b1efbf1bab",
            "32de1078e7cd47f5338c666a1b563ede",
            "a1209aceedd8806c88eab27ce45ee2c4",
            "1619cd7c54f5d71fcf4cfefea829728e",
            "636c2b84649286e19bcb0684fc9fbb01",
            "bc67bc37080dc4df880ffe9720d680a8",
            "ac7ea0d5ee8c7ab49f257c9964796953",
        ),
    ),
    Archive(
        "MiraBest_full_batches.tar.gz",
        "965b5daa83b9d8622bb407d718eecb51",
        "batches",
        (
            "b15ae155301f316fc0b51af16b3c540d",
            "0bf52cc1b47da591ed64127bab6df49e",
            "98908045de6695c7b586d0bd90d78893",
            "ec9b9b77dc019710faf1ad23f1a58a60",
            "5190632a50830e5ec30de2973cc6b2e1",
            "b7113d89ddd33dd179bf64cb578be78e",
            "626c866b7610bfd08ac94ca3a17d02a1",
            "5e443302dbdf3c2003d68ff9ac95f08c",
        ),
    ),
)


@validated
class MiraBest(MemoryData):
    """729 training and 104 test pictures of certain FR I and FR II galaxies; 49 uncertain and 30 hybrid ones beside.

    Reads ``MiraBest/MiraBest_F_batches.tar.gz`` or ``MiraBest/MiraBest_full_batches.tar.gz`` without unpacking it.

    Args:
        rotate: whether training pictures are turned by a random angle, once an epoch, nearest pixels, black outside.
        **common: the arguments of :class:`~prunebench.data.memory.MemoryData`.
    """

    shape = (2, 1, SIDE)
    class_names = ["FR I", "FR II"]
    bases: ClassVar[tuple[str, ...]] = ("http://www.jb.man.ac.uk/research/MiraBest/full_dataset",)

    def __init__(self, *, rotate: bool, **common: Any) -> None:
        super().__init__(**common)
        self.rotate = rotate
        self._further: dict[str, Store] = {}

    def fetch(self, root: Path) -> None:
        """Download the full archive, unless one of both is there."""
        if self._found(root) is None:
            fetch(Remote(f"{FOLDER}/{ARCHIVES[1].name}", self.bases, f"md5:{ARCHIVES[1].md5}"), root)

    def read(self, root: Path) -> Raw:
        parsed = [self._parse(name, content) for name, content in self._contents(root).items()]
        images, labels = (torch.cat(parts) for parts in zip(*parsed[:-1], strict=True))
        test_images, test_labels = parsed[-1]
        self._further = {
            # which batches they are from is what the authors' follow-up counts: 49 and 30
            "uncertain": self._stored(*_only(test_images, test_labels, FURTHER["uncertain"]), 0),
            "hybrid": self._stored(*_only(images, labels, FURTHER["hybrid"]), 0),
        }
        return Raw(*_only(images, labels, CONFIDENT), *_only(test_images, test_labels, CONFIDENT))

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        for store in self._further.values():
            store.to(self.device)

    def further_tests(self) -> Mapping[str, Batches]:
        """``uncertain``: of the test batch. ``hybrid``: of the others; class 1 says that it is an uncertain one."""
        everything = {name: torch.arange(len(store.labels)) for name, store in self._further.items()}
        return {name: self._evaluation(name, index, None, 0, 1) for name, index in everything.items()}

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        if part in self._further:
            return StoreBatches(self._further[part], chunks, None, channels_last=self.channels_last)
        batches = super()._batches(part, chunks, draw)
        if draw is None or not self.rotate:
            return batches
        assert isinstance(batches, StoreBatches)
        seed, epoch = draw
        return Rotated(batches, angles(len(batches.store.labels), seed=seed, epoch=epoch))

    def _found(self, root: Path) -> Archive | None:
        return next((archive for archive in ARCHIVES if (root / FOLDER / archive.name).is_file()), None)

    def _contents(self, root: Path) -> dict[str, bytes]:
        """Name of each batch -> the pickle, checked; the test batch comes last."""
        archive = self._found(root)
        if archive is None:
            names = " or ".join(f"{FOLDER}/{known.name}" for known in ARCHIVES)
            raise not_found(self.name, root, f"{names} into {root}; dataset=synthetic_radio needs no files")
        path = root / FOLDER / archive.name
        advice = remedy(self.name, path)
        checked(path.read_bytes(), path, advice, md5=archive.md5)
        found = {}
        try:
            with tarfile.open(path) as tar:
                for name, md5 in zip(BATCHES, archive.sums, strict=True):
                    member = tarfile.data_filter(tar.getmember(f"{archive.folder}/{name}"), str(path.parent))
                    file = tar.extractfile(member)
                    found[name] = checked(file.read() if file else b"", path / name, advice, md5=md5)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read ({error}); {advice}") from error
        return found

    def _parse(self, name: str, content: bytes) -> tuple[Tensor, Tensor]:
        """One batch to pictures uint8 ``[N, 1, 150, 150]`` and the files' labels int64 ``[N]``, 0 to 9."""
        try:
            batch = read_arrays(content)
            labels = torch.tensor([int(label) for label in batch[b"labels"]], dtype=torch.long)
            pixels = np.asarray(batch[b"data"], dtype=np.uint8).reshape(len(labels), 1, SIDE, SIDE)
        except (pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{name} is not a batch of {self.name}: {error}") from error
        return torch.from_numpy(pixels.copy()), labels


def _only(images: Tensor, labels: Tensor, classes: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """The pictures whose label is a key of ``classes``, and their classes."""
    table = torch.full((10,), -1)
    for label, number in classes.items():
        table[label] = number
    known = table[labels]
    return images[known >= 0], known[known >= 0]
