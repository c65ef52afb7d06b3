"""Pictures without anything on them, to see whether a net knows that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import NonNegativeInt, PositiveInt
from prunebench.data.base import Batches
from prunebench.data.batches import Store, StoreBatches
from prunebench.data.loaders import ImageData
from prunebench.data.splits import stream
from prunebench.disk.tensors import tensors_sha256


@validated
class Noise(ImageData):
    """A test set of independent uniform bytes, without training pictures.

    Args:
        num_pictures: size of the test set.
        noise_seed: the pixels are a function of it and of the shape.
        **common: the arguments of :class:`~prunebench.data.loaders.ImageData`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, *, num_pictures: PositiveInt, noise_seed: NonNegativeInt, **common: Any) -> None:
        super().__init__(**common)
        self.num_pictures, self.noise_seed = num_pictures, noise_seed
        self._store: Store | None = None
        self._sum = ""

    def fetch(self, root: Path) -> None:
        """Nothing to do: the pictures are drawn."""

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        if self._store is not None:
            self._store.to(self.device)

    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        shape = (self.num_pictures, self.in_channels, self.size, self.size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream("noise", self.noise_seed))
        labels = torch.zeros(self.num_pictures, dtype=torch.long)
        self._sum = tensors_sha256({"": pixels})
        self._store = Store(pixels, labels, padding=0, mean=self.mean, std=self.std)
        self._store.to(self.device)
        return labels[:0], labels

    def _inputs_sha256(self, part: str) -> str:
        return self._sum if part == "test" else ""

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        assert self._store is not None, "call setup first"
        assert part == "test", "noise has no training pictures"
        return StoreBatches(self._store, chunks, None, channels_last=self.channels_last)
