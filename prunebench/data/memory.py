"""Data sets small enough to be held whole in memory, as one uint8 tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import NonNegativeInt
from prunebench.data.base import Batches
from prunebench.data.batches import Draws, Store, StoreBatches
from prunebench.data.loaders import ImageData
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError


@dataclass(frozen=True)
class Raw:
    """The content of the files, in their order: pictures uint8 ``[N, C, H, W]`` and labels int64 ``[N]``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training pictures are varied.

    Attributes:
        crop: black pixels added on each side before a random window of the old size is cut, 0 = no crop.
        flip: mirror left to right with probability one half.
    """

    crop: NonNegativeInt
    flip: bool


@validated
class MemoryData(ImageData):
    """An image set in one uint8 tensor on the device; the batches are cut out of it by whole-tensor steps.

    Args:
        augment: ``{crop: pixels, flip: true or false}``, see :class:`Augment`.
        **common: the arguments of :class:`~prunebench.data.loaders.ImageData`.
    """

    shape: tuple[int, int, int]
    """Classes, channels and pixels per side of the official set: what the configuration must say."""

    def __init__(self, *, augment: Augment, **common: Any) -> None:
        super().__init__(**common)
        given = (self.num_classes, self.in_channels, self.size)
        if given != self.shape:
            raise UserError(
                "dataset.num_classes, in_channels and size describe the files of {} and must be {}, {} and {}; "
                "got {}, {} and {}".format(self.name, *self.shape, *given)
            )
        if augment.crop > self.size:
            raise UserError(f"dataset.augment.crop must be at most dataset.size={self.size}, got {augment.crop}")
        self.augment = augment
        self._raw_sums: dict[str, str] = {}
        self._train_store: Store | None = None
        self._test_store: Store | None = None

    @abstractmethod
    def read(self, root: Path) -> Raw:
        """Read and check the official files. Raises UserError if one is missing or broken."""

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        for store in (self._train_store, self._test_store):
            if store is not None:
                store.to(self.device)

    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        raw = self.read(root)
        self._raw_sums = {
            "train": tensors_sha256({"": raw.train_images}),
            "test": tensors_sha256({"": raw.test_images}),
        }
        self._train_store = self._stored(raw.train_images, raw.train_labels, self.augment.crop)
        self._test_store = self._stored(raw.test_images, raw.test_labels, 0)
        return raw.train_labels, raw.test_labels

    def _inputs_sha256(self, part: str) -> str:
        return self._raw_sums[part]

    def _stored(self, images: Tensor, labels: Tensor, padding: int) -> Store:
        assert images.shape[1:] == (self.in_channels, self.size, self.size), images.shape
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
            raise UserError(
                f"{self.name} has labels from {int(labels.min())} to {int(labels.max())}, expected "
                f"0 to {self.num_classes - 1}; the files are not the official ones"
            )
        store = Store(images, labels, padding=padding, mean=self.mean, std=self.std)
        store.to(self.device)
        return store

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        store = self._train_store if part == "train" else self._test_store
        assert store is not None, "call setup first"
        draws = None
        if draw is not None and (self.augment.crop or self.augment.flip):
            seed, epoch = draw
            draws = Draws.make(
                len(store.labels), padding=self.augment.crop, flip=self.augment.flip, seed=seed, epoch=epoch
            )
        return StoreBatches(store, chunks, draws, channels_last=self.channels_last)
