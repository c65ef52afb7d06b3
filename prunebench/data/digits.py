"""The handwritten digits that come with scikit-learn: 1,797 real pictures, nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Range
from prunebench.data.memory import MemoryData, Raw
from prunebench.data.splits import stratified_split

SIZES = (8, 16, 32)
BRIGHTEST = 16  # the set counts 0 to 16 ink pixels per cell
TEST_SEED = 0  # there is no official test set; ours is the same whatever dataset.split_seed is


@validated
class Digits(MemoryData):
    """Handwritten digits, 10 classes, 8x8 grey pixels (UCI optical recognition, its test part).

    Args:
        size: 8 = as they are; 16 or 32 = enlarged bilinearly.
        test: pictures in the test split, the same ones in every run.
        **common: the arguments of :class:`~prunebench.data.memory.MemoryData`.

    Raises:
        UserError: a value is out of range.
    """

    class_names = [str(digit) for digit in range(10)]

    def __init__(
        self,
        *,
        size: Annotated[int, Among(SIZES)],
        test: Annotated[int, Range(low=10, high=1797 - 10)],
        **common: Any,
    ) -> None:
        self.shape = (10, 1, size)
        super().__init__(size=size, **common)
        self.num_held_out_test = test

    def fetch(self, root: Path) -> None:
        """Nothing to do: the pictures are inside scikit-learn."""

    def read(self, root: Path) -> Raw:
        # here, so that a run on other data does not wait for scikit-learn
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = self._enlarged(torch.from_numpy(bunch.images).float()[:, None])
        labels = torch.from_numpy(bunch.target).long()
        train, test = stratified_split(labels, self.num_held_out_test, seed=TEST_SEED)
        return Raw(images[train], labels[train], images[test], labels[test])

    def _enlarged(self, images: Tensor) -> Tensor:
        """Values 0 to 16 ``[N, 1, 8, 8]`` to bytes ``[N, 1, size, size]``."""
        if self.size != images.shape[-1]:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return (images * (255 / BRIGHTEST)).round().to(torch.uint8)
