"""Sets of picture files in class folders: what ImageNet and a set of one's own have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.data.base import Batches
from prunebench.data.loaders import ImageData
from prunebench.data.pictures import CentreCut, Listing, PictureBatches, Pictures, RandomCut
from prunebench.errors import UserError

ENDINGS = (".jpeg", ".jpg", ".png")


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
        listing = self._parts.get(part)
        return "" if listing is None else listing.sha256()

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
