"""ImageNet (ILSVRC 2012): class folders of picture files, with a check of the layout.

Two mistakes give accuracies near zero without any error: validation pictures that are not sorted into class
folders, and another order of the classes. Both are found here before anything runs.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.data.files import MissingData
from prunebench.data.picture_folders import PictureFolders, class_folders, list_pictures
from prunebench.errors import UserError

NUM_TRAIN = 1_281_167
NUM_TEST = 50_000


@cache
def official_classes() -> tuple[str, ...]:
    """The 1,000 class folders in label order, which is their sorted order."""
    text = resources.files("prunebench.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.split())


@validated
class ImageNet(PictureFolders):
    """ImageNet-1k in ``<folder>/train/<class>/*`` and ``<folder>/val/<class>/*``.

    The public validation set is the test set; ``validation`` pictures, the same number of each class, are taken
    from the training set. Labels follow the official order of the 1,000 class folders, also in a partial copy.

    Args:
        folder: below the data folder.
        allow_incomplete: accept fewer pictures or classes than the official ones, and folders that are no
            ImageNet classes (then labels follow the sorted folder names). Without ``train`` such a copy can be
            tested only: everything that needs training pictures is a UserError, nothing else is put in place.
        **common: the arguments of :class:`~prunebench.data.picture_folders.PictureFolders`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, *, folder: str, allow_incomplete: bool, **common: Any) -> None:
        super().__init__(**common)
        self.folder = folder
        self.allow_incomplete = allow_incomplete
        if self.num_held_out % self.num_classes:
            raise UserError(
                f"dataset.validation={self.num_held_out} must be a multiple of the {self.num_classes} classes: "
                "the same number of each is held out"
            )
        self.class_order = "official"

    def fetch(self, root: Path) -> None:
        """ImageNet may not be downloaded without an account; says so unless it is there."""
        if not (root / self.folder / "val").is_dir():
            raise self._missing(root)

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "class_order": self.class_order, "complete": not self.allow_incomplete}

    def _inputs_sha256(self, part: str) -> str:
        # the number of files is checked and everybody has the same: to read 140 GB would take as long as an epoch
        listing = self._parts.get(part)
        return "" if listing is None else listing.sample_sha256()

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
        for part, place in (("train", "train"), ("test", "val"))[not has_train :]:
            self._parts[part] = list_pictures(base / place, folders, self.class_names)
        self._check_counts(base)
        empty = torch.empty(0, dtype=torch.long)
        return self._parts["train"].labels if has_train else empty, self._parts["test"].labels

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
        for part, place, expected in (("train", "train", NUM_TRAIN), ("test", "val", NUM_TEST)):
            found = len(self._parts[part].labels)
            if found != expected:
                raise UserError(
                    f"{base / place} has {found:,} pictures, ImageNet {expected:,}; complete it or set "
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
