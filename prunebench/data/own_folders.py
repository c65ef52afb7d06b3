"""Pictures of one's own in class folders, of any number and size, split by folder or by a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne
from prunebench.data import splits
from prunebench.data.files import MissingData
from prunebench.data.picture_folders import PictureFolders, class_folders, list_pictures
from prunebench.data.pictures import Listing
from prunebench.disk.paths import data_path
from prunebench.errors import UserError

TEST_FOLDERS = ("test", "val")


@validated
class OwnFolders(PictureFolders):
    """``<folder>/<class>/*``, or ``<folder>/train/<class>/*`` beside ``<folder>/test/<class>/*`` (or ``val``).

    Labels follow the sorted names of the class folders. Without a test folder ``test_share`` of each class is the test
    set, drawn with ``split_seed``.

    Args:
        folder: a path below the data folder, or from where Python was started.
        test_share: share of the pictures of each class that is tested on, where no folder says which (0 only where
            one does).
        **common: the arguments of :class:`~prunebench.data.picture_folders.PictureFolders`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, *, folder: str, test_share: FractionBelowOne, **common: Any) -> None:
        super().__init__(**common)
        self.folder, self.test_share = folder, test_share

    def fetch(self, root: Path) -> None:
        """Nobody but its owner has it; says so unless it is there."""
        self._base(root)

    def _base(self, root: Path) -> Path:
        base = data_path(self.folder, root)
        if not base.is_dir():
            raise MissingData(
                f"dataset.folder={self.folder} is no folder, neither here ({Path.cwd()}) nor below paths.data "
                f"({root}); give the folder that holds a folder of pictures "
                "for each class, or train/ and test/ with such folders"
            )
        return base

    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        base = self._base(root)
        test = next((name for name in TEST_FOLDERS if (base / name).is_dir()), None)
        if (base / "train").is_dir() and test is not None:
            folders = self._classes(base / "train")
            if (others := class_folders(base / test)) != folders:
                odd = sorted(set(folders) ^ set(others))
                raise UserError(f"train and {test} of {base} must have the same classes; {odd[0]} is in one only")
            places = {"train": "train", "test": test}
            self._parts = {part: list_pictures(base / place, folders, folders) for part, place in places.items()}
        else:
            if not self.test_share:
                raise UserError(
                    f"dataset.test_share must be a number in (0, 1), got {self.test_share:g}: {base} has no folders "
                    f"train and {' or '.join(TEST_FOLDERS)}, so a share of its pictures is tested on"
                )
            folders = self._classes(base)
            whole = list_pictures(base, folders, folders)
            self._parts = dict(zip(("train", "test"), self._split(whole), strict=True))
        self.class_names = folders
        return self._parts["train"].labels, self._parts["test"].labels

    def _classes(self, place: Path) -> list[str]:
        found = class_folders(place)
        has = f"{place} has {len(found)} class folder{'' if len(found) == 1 else 's'}"
        if len(found) < 2:
            raise UserError(f"{has}; pictures must lie in one folder for each class, of two classes at least")
        if len(found) != self.num_classes:
            raise UserError(f"{has}, and dataset.num_classes={self.num_classes}; set it to {len(found)}")
        return found

    def _split(self, whole: Listing) -> tuple[Listing, Listing]:
        counts = torch.bincount(whole.labels, minlength=self.num_classes)
        quota = (counts * self.test_share).round().long().clamp(min=1)
        if bool((quota >= counts).any()):
            fewest = int(counts.argmin())
            raise UserError(
                f"{whole.folder} has {int(counts[fewest])} picture(s) of one class; with dataset.test_share="
                f"{self.test_share:g} at least 2 of each are needed, or folders train/ and test/"
            )
        rest, held = splits.hold_out(whole.labels, quota, seed=self.split_seed)
        some = [Listing(whole.folder, whole.names[index.numpy()], whole.labels[index]) for index in (rest, held)]
        return some[0], some[1]
