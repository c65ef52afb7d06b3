"""A newcomer's data set, drawn instead of read: a bright dot in one of four corners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch

from prunebench.config.arguments import validated
from prunebench.config.ranges import Range
from prunebench.data.memory import MemoryData, Raw

SIZE = 8


@validated
class Dots(MemoryData):
    """Grey pictures of 8x8 pixels, 4 classes.

    Args:
        darkest: brightness of the darkest pixel of a dot, 0 to 255.
        **common: the arguments of :class:`~prunebench.data.memory.MemoryData`.
    """

    shape = (4, 1, SIZE)

    def __init__(self, *, darkest: Annotated[int, Range(low=0, high=255)], **common: Any) -> None:
        super().__init__(**common)
        self.darkest = darkest

    def fetch(self, root: Path) -> None:
        """Nothing to do: the pictures are drawn."""

    def read(self, root: Path) -> Raw:
        draw = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 4, (240,), generator=draw)
        images = torch.zeros(240, 1, SIZE, SIZE, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            top, left = 4 * (label // 2), 4 * (label % 2)
            dot = torch.randint(self.darkest, 256, (4, 4), generator=draw, dtype=torch.uint8)
            image[0, top : top + 4, left : left + 4] = dot
        return Raw(images[:180], labels[:180], images[180:], labels[180:])
