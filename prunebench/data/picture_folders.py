"""Sets of picture files in class folders: what ImageNet and a set of one's own have in common."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.data.base import Batches
from prunebench.data.files import unreadable, utf8
from prunebench.data.loaders import ImageData
from prunebench.data.pictures import CentreCut, Listing, PictureBatches, Pictures, RandomCut
from prunebench.errors import UserError

log = logging.getLogger("prunebench")

_COMMON = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
Image.init()  # else Pillow does not know its own formats yet
ENDINGS = tuple(ending for ending in _COMMON if ending in Image.registered_extensions())
"""Of pictures that are read: the common ones that Pillow was built for."""
SYSTEM = ("$recycle.bin", "@eadir", "__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "lost+found", "thumbs.db")
"""What systems and programs keep beside somebody's files, in small letters; names that begin with a dot are others."""


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
class PictureFolders(ImageData):
    """Pictures that are decoded while they are used. A set of this kind fills ``_parts`` in ``_read``.

    Args:
        in_channels: colour; grey pictures are read as colour.
        resize: shorter side before the central crop in evaluation, in pixels; ``null`` = 8/7 of ``size``, as
            ImageNet's 256 for 224.
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
        resize: PositiveInt | None,
        augment: RandomCrop,
        num_workers: NonNegativeInt | None,
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        self.resize = round(self.size * 8 / 7) if resize is None else resize
        self.min_area, self.flip = augment.min_area, augment.flip
        self.num_workers = _processors() if num_workers is None else num_workers
        if self.resize < self.size:
            raise UserError(f"dataset.resize must be at least dataset.size={self.size}, got {self.resize}")
        self._parts: dict[str, Listing] = {}

    def input_facts(self) -> dict[str, Any]:
        cut = f"the shorter side resized to {self.resize} pixels (bilinear), then the central {self.size} x {self.size}"
        return {**super().input_facts(), "preparation": cut}

    def _inputs_sha256(self, part: str) -> str:
        return self._parts[part].sha256()

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        cut: RandomCut | CentreCut = CentreCut(size=self.size, resize=self.resize)
        if draw is not None:
            seed, epoch = draw
            cut = RandomCut(self.size, self.min_area, self.flip, seed, epoch)
        return PictureBatches(
            Pictures(self._parts[part], cut),
            chunks,
            num_workers=self.num_workers,
            mean=self.mean,
            std=self.std,
            device=self.device,
            channels_last=self.channels_last,
        )


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in ``folder``, without hidden ones and those of the system.

    Raises:
        UserError: pictures lie beside them, a name is no text, or a link leads nowhere.
    """
    found = [(entry.name, _is_folder(entry)) for entry in _entries(folder)]
    loose = [name for name, is_folder in found if not is_folder and name.lower().endswith(ENDINGS)]
    if loose:
        raise UserError(
            f"{folder} has {len(loose):,} pictures outside of class folders, for one {utf8(loose[0])}; sort them into "
            f"{folder}/<class>/"
        )
    return [_text(folder, name) for name, is_folder in found if is_folder]


def list_pictures(folder: Path, folders: Sequence[str], order: Sequence[str]) -> Listing:
    """All pictures below ``folder``, by sorted class folder and sorted file name. Warns of what is not read.

    Args:
        folder: contains the class folders.
        folders: which ones.
        order: all classes in label order.

    Raises:
        UserError: a class folder is empty, or what is named like a picture is no file.
    """
    position = {name: label for label, name in enumerate(order)}
    names: list[bytes] = []
    labels: list[int] = []
    unread: Counter[str] = Counter()
    for name in folders:
        entries = _entries(folder / name)
        files = [_picture(entry) for entry in entries if entry.name.lower().endswith(ENDINGS)]
        if not files:
            raise UserError(f"{folder / name} has no pictures ({', '.join(ENDINGS)})")
        names += [os.fsencode(f"{name}/{file}") for file in files]
        labels += [position[name]] * len(files)
        unread.update(_ending(entry) for entry in entries if not entry.name.lower().endswith(ENDINGS))
    if unread:
        counts = ", ".join(f"{count:,} {utf8(ending)}" for ending, count in sorted(unread.items()))
        log.warning(
            "warning: not read in the class folders of %s: %s; pictures end in %s", folder, counts, ", ".join(ENDINGS)
        )
    return Listing(folder, np.array(names, dtype=np.bytes_), torch.tensor(labels, dtype=torch.long))


# -- what lies in a folder


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """By name, without what is hidden and what the system keeps there."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in SYSTEM]
    except OSError as error:
        raise unreadable(folder, error) from None
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one. Raises UserError where a link leads nowhere: it may have been a class."""
    try:
        return stat.S_ISDIR(entry.stat().st_mode) if entry.is_symlink() else entry.is_dir()
    except OSError as error:
        raise unreadable(Path(entry.path), error) from None


def _picture(entry: os.DirEntry[str]) -> str:
    """The name of a picture. Raises UserError if it is no file or its name is no text."""
    is_folder = _is_folder(entry)
    if is_folder or not entry.is_file():  # a pipe would be waited for
        kind = "a folder" if is_folder else "no file"
        raise UserError(f"{utf8(entry.path)} is {kind}, but named like a picture; rename it or take it away")
    return _text(Path(entry.path).parent, entry.name)


def _text(folder: Path, name: str) -> str:
    """``name``, which is written into results and so must be text. Raises UserError if it is none."""
    if utf8(name) != name:
        raise UserError(f"the name of {utf8(folder / name)} is no UTF-8; rename it")
    return name


def _ending(entry: os.DirEntry[str]) -> str:
    """What an entry that is not read counts as."""
    if entry.is_dir(follow_symlinks=False):
        return "folder(s)"
    return os.path.splitext(entry.name)[1].lower() or "without an ending"


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
