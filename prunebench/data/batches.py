"""Batches out of one uint8 tensor: crop, flip and normalise whole batches, never single pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.data.splits import stream


@dataclass(frozen=True)
class Draws:
    """The augmentation of one epoch, drawn for every stored picture.

    Attributes:
        top, left: where the crop begins in the padded picture, ``[N]``, 0 to 2 x padding.
        flip: whether the crop is mirrored left to right, ``[N]``.
    """

    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def make(cls, num: int, *, padding: int, flip: bool, seed: int, epoch: int) -> Draws:
        """Draw crops and flips for ``num`` pictures: a function of (seed, epoch), whatever the batches are."""
        generator = stream("augment", seed, epoch)
        place = torch.randint(0, 2 * padding + 1, (2, num), generator=generator)
        mirrored = torch.rand(num, generator=generator) < 0.5
        return cls(place[0], place[1], mirrored if flip else torch.zeros_like(mirrored))


def crop(padded: Tensor, index: Tensor, top: Tensor, left: Tensor, *, size: int) -> Tensor:
    """Cut one window out of each chosen picture.

    Args:
        padded: all pictures, ``[N, C, size + 2 padding, size + 2 padding]``.
        index: which pictures, ``[B]``.
        top, left: the window's corner in each, ``[B]``.
        size: height and width of the window, in pixels.

    Returns:
        ``[B, C, size, size]``, a copy.
    """
    # All possible windows as a view without any copy, so that one gather does selection and crop.
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [N, C, offsets, offsets, size, size]
    return windows[index, :, top, left]


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror the pictures numbered ``which`` left to right; the others stay. ``[B, C, H, W]`` to the same."""
    return images.index_copy(0, which, images.index_select(0, which).flip(-1))


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Bytes to ``pixel * scale + shift`` in float32; keeps the memory format.

    Args:
        images: uint8 ``[B, C, H, W]``.
        scale: 1 / (255 std), ``[C, 1, 1]``.
        shift: -mean / std, ``[C, 1, 1]``.
    """
    return images.float().mul_(scale).add_(shift)


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The factors of :func:`normalise` for mean and std given as fractions of full brightness, ``[C, 1, 1]``."""
    deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
    return (1 / (255 * deviation)).float(), (-centre / deviation).float()


class Store:
    """A set of pictures as one uint8 tensor, padded once with black pixels.

    Attributes:
        pixels: uint8 ``[N, C, size + 2 padding, size + 2 padding]``.
        labels: int64 ``[N]``.
        padding: black pixels on each side (as torchvision's ``RandomCrop(size, padding=...)`` before normalising).
    """

    def __init__(
        self, images: Tensor, labels: Tensor, *, padding: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        assert images.dtype == torch.uint8, images.dtype
        assert images.dim() == 4, images.shape
        assert len(images) == len(labels)
        self.size = images.shape[-1]
        self.padding = padding
        self.pixels = F.pad(images, (padding,) * 4) if padding else images.contiguous()
        self.labels = labels
        self.scale, self.shift = scale_and_shift(mean, std)

    def to(self, device: torch.device | str) -> None:
        """Move everything to ``device``."""
        self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def batch(self, index: Tensor, draws: Draws | None, *, channels_last: bool) -> tuple[Tensor, Tensor]:
        """The pictures ``index`` (on the CPU), augmented if ``draws`` are given.

        Returns:
            Normalised float32 ``[B, C, size, size]`` and int64 labels ``[B]``, on the store's device.
        """
        device = self.pixels.device
        where = index.to(device)
        if draws is None:
            corner = torch.full_like(where, self.padding)
            images = crop(self.pixels, where, corner, corner, size=self.size)
        else:
            top, left = draws.top[index].to(device), draws.left[index].to(device)
            images = crop(self.pixels, where, top, left, size=self.size)
            flipped = draws.flip[index].nonzero()[:, 0]
            if len(flipped):
                images = mirror(images, flipped.to(device))
        if channels_last:  # while a pixel is one byte and not four
            images = images.contiguous(memory_format=torch.channels_last)
        return normalise(images, self.scale, self.shift), self.labels[where]


class StoreBatches:
    """The batches of one epoch. Iterating again gives the same batches again."""

    def __init__(self, store: Store, chunks: Sequence[Tensor], draws: Draws | None, *, channels_last: bool) -> None:
        self.store = store
        self.chunks = chunks
        self.draws = draws
        self.channels_last = channels_last

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.chunks:
            yield self.store.batch(index, self.draws, channels_last=self.channels_last)
