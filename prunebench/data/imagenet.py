"""ImageNet (ILSVRC 2012): class folders of picture files, with a check of the layout.

Two mistakes give accuracies near zero without any error: validation pictures that are not sorted into class
folders, and another order of the classes. Both are found here before anything runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.data.base import Batches
from prunebench.data.files import MissingData
from prunebench.data.loaders import ImageData
from prunebench.data.pictures import CentreCut, Listing, PictureBatches, Pictures, RandomCut
from prunebench.errors import UserError

NUM_TRAIN = 1_281_167
NUM_TEST = 50_000
ENDINGS = (".jpeg", ".jpg", ".png")


@cache
def official_classes() -> tuple[str, ...]:
    """The 1,000 class folders in label order, which is their sorted order."""
    text = resources.files("prunebench.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.split())


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """How training pictures are varied.

    Attributes:
        min_area: smallest share of a picture's area in a random crop.
        flip: mirror half of them.
    """

    min_area: PositiveFraction
    flip: bool


@validated
class ImageNet(ImageData):
    """ImageNet-1k in ``<folder>/train/<class>/*`` and ``<folder>/val/<class>/*``.

    The public validation set is the test set; ``validation`` pictures, the same number of each class, are taken
    from the training set. Labels follow the official order of the 1,000 class folders, also in a partial copy.

    Args:
        in_channels: colour; grey pictures are read as colour.
        folder: below the data folder.
        allow_incomplete: accept fewer pictures or classes than the official ones, and folders that are no
            ImageNet classes (then labels follow the sorted folder names). Without ``train`` such a copy can be
            tested only: everything that needs training pictures is a UserError, nothing else is put in place.
        resize: shorter side before the central crop in evaluation, in pixels.
        augment: ``{min_area: …, flip: …}``, see :class:`RandomCrop`.
        num_workers: decoding processes per device; ``null`` = one per processor.
        **common: the arguments of :class:`~prunebench.data.loaders.ImageData`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: Annotated[int, Among((3,))],
        folder: str,
        allow_incomplete: bool,
        resize: PositiveInt,
        augment: RandomCrop,
        num_workers: NonNegativeInt | None,
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        self.folder = folder
        self.allow_incomplete, self.resize = allow_incomplete, resize
        self.min_area, self.flip = augment.min_area, augment.flip
        self.num_workers = _processors() if num_workers is None else num_workers
        if self.resize < self.size:
            raise UserError(f"dataset.resize must be at least dataset.size={self.size}, got {self.resize}")
        if self.num_held_out % self.num_classes:
            raise UserError(
                f"dataset.validation={self.num_held_out} must be a multiple of the {self.num_classes} classes: "
                "the same number of each is held out"
            )
        self.class_order = "official"
        self._parts: dict[str, Listing] = {}

    def fetch(self, root: Path) -> None:
        """ImageNet may not be downloaded without an account; says so unless it is there."""
        if not (root / self.folder / "val").is_dir():
            raise self._missing(root)

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "class_order": self.class_order, "complete": not self.allow_incomplete}

    def _missing(self, root: Path) -> MissingData:
        return MissingData(
            f"{self.name} is not in {root / self.folder}: it cannot be downloaded without an account, get "
            f"ILSVRC 2012 from https://image-net.org and sort it into {root / self.folder}/train/<class>/ and "
            "val/<class>/"
        )

    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        base = root / self.folder
        if not (base / "val").is_dir():
            raise self._missing(root)
        has_train = (base / "train").is_dir()
        if not has_train and not self.allow_incomplete:
            raise UserError(f"{base} has no folder train; set dataset.allow_incomplete=true to test on val alone")
        folders = class_folders(base / "val")
        if has_train and class_folders(base / "train") != folders:
            odd = sorted(set(class_folders(base / "train")) ^ set(folders))
            raise UserError(
                f"train and val of {base} must have the same classes; {len(odd)} are in one only: {odd[0]}, ..."
            )
        self.class_names = self._order(base, folders)
        for part in ("train", "val") if has_train else ("val",):
            self._parts[part] = list_pictures(base / part, folders, self.class_names)
        self._check_counts(base)
        empty = torch.empty(0, dtype=torch.long)
        return self._parts["train"].labels if has_train else empty, self._parts["val"].labels

    def _inputs_sha256(self, part: str) -> str:
        listing = self._parts.get("train" if part == "train" else "val")
        return "" if listing is None else listing.sha256()

    def _order(self, base: Path, folders: list[str]) -> list[str]:
        """The class folders in label order."""
        official = official_classes()
        strange = sorted(set(folders) - set(official))
        if strange and not (self.allow_incomplete and len(strange) == len(folders)):
            raise UserError(
                f"{base} has {len(strange)} folders that are no ImageNet class, for one {strange[0]}; classes "
                "are named like n01440764"
            )
        order = folders if strange else list(official)
        self.class_order = "sorted folder names" if strange else "official"
        if len(order) != self.num_classes:
            raise UserError(f"dataset.num_classes={self.num_classes}, but {base} has {len(order)} classes")
        if not self.allow_incomplete and len(folders) != len(order):
            raise UserError(
                f"{base} has {len(folders)} of {len(order)} classes; complete it or set dataset.allow_incomplete=true"
            )
        return order

    def _check_counts(self, base: Path) -> None:
        if self.allow_incomplete:
            return
        for part, expected in (("train", NUM_TRAIN), ("val", NUM_TEST)):
            found = len(self._parts[part].labels)
            if found != expected:
                raise UserError(
                    f"{base / part} has {found:,} pictures, ImageNet {expected:,}; complete it or set "
                    "dataset.allow_incomplete=true"
                )

    def _quota(self, labels: Tensor) -> Tensor:
        per_class = self.num_held_out // self.num_classes
        counts = torch.bincount(labels, minlength=self.num_classes)
        if bool(((counts > 0) & (counts <= per_class)).any()):
            raise UserError(
                f"dataset.validation={self.num_held_out} takes {per_class} pictures of each class of {self.name}, "
                f"but one has {int(counts[counts > 0].min())}; choose a smaller multiple of {self.num_classes}"
            )
        return torch.full_like(counts, per_class).minimum(counts)

    def _training(self) -> Tensor:
        index = super()._training()
        if "train" not in self._parts:
            raise UserError(f"{self.name} in {self.folder} has no folder train: it can be tested only")
        return index

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        cut: RandomCut | CentreCut = CentreCut(size=self.size, resize=self.resize)
        if draw is not None:
            seed, epoch = draw
            cut = RandomCut(self.size, self.min_area, self.flip, seed, epoch)
        return PictureBatches(
            Pictures(self._parts["train" if part == "train" else "val"], cut),
            chunks,
            num_workers=self.num_workers,
            mean=self.mean,
            std=self.std,
            device=self.device,
            channels_last=self.channels_last,
        )


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in ``folder``. Raises UserError if pictures lie beside them."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries]
    loose = [name for name, is_dir in found if not is_dir and name.lower().endswith(ENDINGS)]
    if loose:
        raise UserError(
            f"{folder} has {len(loose):,} pictures outside of class folders, for one {loose[0]}; sort them into "
            f"{folder}/<class>/"
        )
    return sorted(name for name, is_dir in found if is_dir)


def list_pictures(folder: Path, folders: Sequence[str], order: Sequence[str]) -> Listing:
    """All pictures below ``folder``, by sorted class folder and sorted file name.

    Args:
        folder: contains the class folders.
        folders: which ones.
        order: all classes in label order.

    Raises:
        UserError: a class folder is empty.
    """
    position = {name: label for label, name in enumerate(order)}
    names: list[bytes] = []
    labels: list[int] = []
    for name in folders:
        with os.scandir(folder / name) as entries:
            files = sorted(entry.name for entry in entries if entry.name.lower().endswith(ENDINGS))
        if not files:
            raise UserError(f"{folder / name} has no pictures ({', '.join(ENDINGS)})")
        names += [f"{name}/{file}".encode() for file in files]
        labels += [position[name]] * len(files)
    return Listing(folder, np.array(names, dtype=np.bytes_), torch.tensor(labels, dtype=torch.long))


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
