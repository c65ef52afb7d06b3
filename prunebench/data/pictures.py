"""Picture files that are too many to hold in memory: decoded, cut and resized by worker processes."""

from __future__ import annotations

import hashlib
import math
import os
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunebench.data.batches import normalise, scale_and_shift
from prunebench.data.checksums import checksums
from prunebench.data.files import unreadable, utf8
from prunebench.errors import UserError

RATIO = (3 / 4, 4 / 3)  # width to height of a random crop (Szegedy et al. 2015, section 6)
CROP_TRIES = 10
NUM_READ = 256
"""About so many pictures are read to tell one copy of an official set from another."""
BROKEN = (OSError, SyntaxError, ValueError, struct.error, MemoryError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's readers of damaged pictures raise."""
MAX_RESIZED = 1 << 27
"""Pixels of a picture before its central part is cut out; a square one has 65,536 at ImageNet's size."""


@dataclass(frozen=True)
class Listing:
    """The files of one part, as arrays: a list of a million strings would be copied into every worker.

    Attributes:
        folder: contains ``<class folder>/<file>``.
        names: ``b"<class folder>/<file>"``, ``[N]``.
        labels: int64 ``[N]``.
    """

    folder: Path
    names: npt.NDArray[np.bytes_]
    labels: Tensor

    def sha256(self) -> str:
        """Checksum of the names and contents of all files.

        Raises:
            UserError: a file cannot be read.
        """
        if len(self.names) < 2 * NUM_READ:
            return self.sample_sha256()  # which reads them all, and small folders keep the identity they have had
        whole = hashlib.sha256()
        names = self.names.tolist()
        for name, content in zip(names, checksums(self.folder, [os.fsdecode(name) for name in names]), strict=True):
            whole.update(name + b" " + content + b";")
        return whole.hexdigest()

    def sample_sha256(self) -> str:
        """Checksum of the names and sizes of all files, and of the content of some, evenly spread.

        Raises:
            UserError: a file cannot be read.
        """
        whole = hashlib.sha256()
        step = max(1, len(self.names) // NUM_READ)
        for number, name in enumerate(self.names.tolist()):
            file = self.folder / os.fsdecode(name)
            try:
                whole.update(name + b" %d;" % file.stat().st_size)
                if number % step == 0:
                    whole.update(file.read_bytes())
            except OSError as error:
                raise unreadable(file, error) from None
        return whole.hexdigest()


@dataclass(frozen=True)
class RandomCut:
    """Training: a random part of the picture, resized, perhaps mirrored.

    Attributes:
        size: side of the result, in pixels.
        min_area: smallest share of the picture's area that a crop may have.
        flip: mirror with probability one half.
        seed, epoch: with the picture's index they determine its crop, whichever worker makes it.
    """

    size: int
    min_area: float
    flip: bool
    seed: int
    epoch: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        draw = random.Random(f"{self.seed}/{self.epoch}/{index}")
        box = random_box(image.width, image.height, min_area=self.min_area, draw=draw)
        image = image.crop(box).resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.flip and draw.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


@dataclass(frozen=True)
class CentreCut:
    """Evaluation: the shorter side resized to ``resize`` pixels, then the central ``size`` x ``size``."""

    size: int
    resize: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        shorter = min(image.size)
        # the longer side is cut off, not rounded, as in torchvision's Resize
        width, height = (self.resize * side // shorter for side in image.size)
        if width * height > MAX_RESIZED:
            raise ValueError(
                f"{image.width} x {image.height} pixels would be resized to {width} x {height}, more than "
                f"{MAX_RESIZED:,}; cut it, or set a smaller dataset.resize"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def random_box(width: int, height: int, *, min_area: float, draw: random.Random) -> tuple[int, int, int, int]:
    """A window of random area and shape, or the largest central one of allowed shape after ten misses.

    Args:
        width, height: of the picture, in pixels.
        min_area: smallest share of the area; the share is uniform up to 1, the shape log-uniform.
        draw: source of randomness.

    Returns:
        Left, top, right and bottom edge, in pixels.
    """
    for _ in range(CROP_TRIES):
        area = width * height * draw.uniform(min_area, 1)
        ratio = math.exp(draw.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
            return left, top, left + wide, top + high
    wide = min(width, round(height * RATIO[1]))
    high = min(height, round(width / RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def as_colour(image: Image.Image) -> Image.Image:
    """The picture in 8-bit colour, whatever it is stored as: grey, CMYK, a palette, 16 bits.

    Transparency is left out: the colours are those that are stored. 16 bits are scaled, where ``convert`` clips.

    Raises:
        ValueError: its values are no brightness of at most 16 bits, such as a TIFF of measured numbers has.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values {values.min()} to {values.max()} are none of 16 bits")
        bright = np.rint(np.arange(65536) * (255 / 65535)).astype(np.uint8)  # a table: floats of all pixels are large
        return Image.fromarray(bright[values]).convert("RGB")
    if image.mode == "F":
        raise ValueError("its values are fractions, whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # RGB at once would warn
    return image.convert("RGB")


class Pictures(Dataset[tuple[Tensor, int] | str]):
    """Decoded and cut pictures: ``(uint8 [size, size, 3], label)``, or one sentence about a broken file."""

    def __init__(self, listing: Listing, cut: RandomCut | CentreCut) -> None:
        self.listing = listing
        self.cut = cut

    def __len__(self) -> int:
        return len(self.listing.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        path = self.listing.folder / os.fsdecode(self.listing.names[index])
        try:
            with Image.open(path) as image:
                cut = self.cut(as_colour(image), index)
        except BROKEN as error:
            # an exception from a worker would arrive as a page of traceback
            reason = " ".join(str(error).split()) or type(error).__name__
            return f"{utf8(path)} cannot be read as a picture ({reason}); replace it or take it away"
        return torch.from_numpy(np.array(cut)), int(self.listing.labels[index])


def collate(samples: Sequence[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor] | str:
    """Pictures to uint8 ``[B, size, size, 3]`` and labels ``[B]``; the sentence, if one was broken."""
    pairs = []
    for sample in samples:
        if isinstance(sample, str):
            return sample
        pairs.append(sample)
    return torch.stack([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs])


class PictureBatches:
    """Normalised batches of picture files, made ahead by worker processes.

    Args:
        pictures: the decoded pictures.
        chunks: picture indices of each batch.
        num_workers: processes that decode; 0 = none but this one.
        mean, std: per channel, as fractions.
        device, channels_last: of the batches.
    """

    def __init__(
        self,
        pictures: Pictures,
        chunks: Sequence[Tensor],
        *,
        num_workers: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self.pictures = pictures
        self.chunks = chunks
        self.num_workers = num_workers
        self.scale, self.shift = (factor.to(device) for factor in scale_and_shift(mean, std))
        self.device = device
        self.channels_last = channels_last

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[Any] = DataLoader(
            self.pictures,
            batch_sampler=[chunk.tolist() for chunk in self.chunks],
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else making the workers draws from the global stream
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(batch)
            images, labels = (part.to(self.device, non_blocking=True) for part in batch)
            images = images.permute(0, 3, 1, 2)  # decoded channels last
            if not self.channels_last:
                images = images.contiguous()
            yield normalise(images, self.scale, self.shift), labels
