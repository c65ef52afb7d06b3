"""Turning pictures by random angles, whole batches at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.data.batches import StoreBatches
from prunebench.data.splits import stream


def angles(num: int, *, seed: int, epoch: int) -> Tensor:
    """An angle for each of ``num`` pictures, uniform in [0, 2 pi): a function of (seed, epoch), ``[num]``."""
    return 2 * torch.pi * torch.rand(num, generator=stream("rotation", seed, epoch))


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Each picture turned about its centre, counter-clockwise as seen, nearest pixels, 0 outside.

    Args:
        images: float ``[B, C, H, W]``, square.
        angle: radians, ``[B]``.
    """
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # where each pixel of the turned picture comes from: turned back, in (x, y) with y downwards
    back = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)  # [B, 2, 3]
    grid = F.affine_grid(back.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


class Rotated:
    """Batches whose pictures are turned; outside of a turned picture it is black.

    Args:
        batches: normalised pictures out of a store.
        angle: of each picture of the store, ``[N]``.
    """

    def __init__(self, batches: StoreBatches, angle: Tensor) -> None:
        self.batches, self.angle = batches, angle

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        black = self.batches.store.shift  # the normalised value of a black pixel, [C, 1, 1]
        for index, (images, labels) in zip(self.batches.chunks, self.batches, strict=True):
            turned = rotate(images - black, self.angle[index].to(images.device)) + black
            layout = torch.channels_last if self.batches.channels_last else torch.contiguous_format
            yield turned.contiguous(memory_format=layout), labels
