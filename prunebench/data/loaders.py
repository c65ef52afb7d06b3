"""What all image data sets share: ``ImageData``, on top of what any data set is (``prunebench.data.base``)."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from prunebench.config.arguments import fit, validated
from prunebench.config.ranges import NonNegativeInt, PositiveInt, Range
from prunebench.data import splits
from prunebench.data.base import Batches, Data
from prunebench.errors import UserError

_BRIGHTNESS = "fractions of full brightness; divide bytes by 255"


@validated
class ImageData(Data):
    """An image classification set with train, validation and test split.

    Batches are ``(x, y)``: float32 ``[B, C, H, W]``, normalised, and int64 ``[B]``.
    The validation pictures are taken from the official training set; the test set is the official one.

    Args:
        name: name in folders, commands and results.
        num_classes, in_channels: of the set; checked against the files.
        size: height and width of a picture as the net gets it, in pixels.
        batch_size: training pictures per step and device.
        eval_batch_size: pictures per evaluation step and device.
        mean, std: per channel, as fractions of full brightness (0 to 1).
        validation: training pictures held out, 0 = none.
        split_seed: seed of the held-out draw.

    Attributes:
        class_names: in the order of the labels, or ``None``.
        num_train, num_val, num_test: pictures per split, known after ``setup``.
        channels_last: memory format of the batches.
        device: where the batches are.

    Raises:
        UserError: a value is out of range.
    """

    task = "classification"
    sample = "image"
    class_names: list[str] | None = None

    def __init__(
        self,
        *,
        name: str,
        num_classes: Annotated[int, Range(low=2)],
        in_channels: PositiveInt,
        size: PositiveInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        mean: Sequence[Annotated[float, Range(low=0, high=1, meaning=_BRIGHTNESS)]],
        std: Sequence[Annotated[float, Range(low=1e-6, high=1, meaning=_BRIGHTNESS)]],
        validation: NonNegativeInt,
        split_seed: NonNegativeInt,
    ) -> None:
        for key, values in (("mean", mean), ("std", std)):
            if len(values) != in_channels:
                raise UserError(f"dataset.{key} must have {in_channels} numbers, one per channel, got {values!r}")
        self.name = name
        self.num_classes, self.in_channels, self.size = num_classes, in_channels, size
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.mean, self.std = [float(value) for value in mean], [float(value) for value in std]
        self.num_held_out, self.split_seed = validation, split_seed
        self.channels_last = False
        self.device = torch.device("cpu")
        self.num_train = self.num_val = self.num_test = 0
        self._train_index: Tensor | None = None  # [num_train], positions in the official training set
        self._val_index = torch.empty(0, dtype=torch.long)
        self._test_labels = torch.empty(0, dtype=torch.long)
        self._sums: dict[str, str] = {}

    # -- what a data set writes

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Download what is missing below ``root``. Raises UserError with what to do by hand if it cannot."""

    @abstractmethod
    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        """Read and check the files; return the official training and test labels, int64 ``[N]``."""

    @abstractmethod
    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        """Batches of part ``"train"`` or ``"test"``; ``draw`` = (seed, epoch) of the augmentation, if any."""

    @abstractmethod
    def _inputs_sha256(self, part: str) -> str:
        """Checksum of the pictures of part ``"train"`` or ``"test"``, after ``_read``."""

    def _quota(self, labels: Tensor) -> Tensor:
        """How many pictures of each class the validation split takes, ``[K]``; UserError if none would be left."""
        if self.num_held_out >= len(labels):
            raise UserError(
                f"dataset.validation={self.num_held_out} leaves no training picture of the {len(labels)} of "
                f"{self.name}; choose a smaller number"
            )
        return splits.proportional(torch.bincount(labels, minlength=self.num_classes), self.num_held_out)

    # -- what a run calls

    def setup(self, root: Path, *, download: bool) -> None:
        """Read and check the files below ``root`` and make the splits. A second call does nothing.

        Raises:
            UserError: a file is missing, truncated or not the official one, in one sentence with the remedy.
        """
        if self._train_index is not None:
            return
        if download:
            self.fetch(Path(root))
        train_labels, test_labels = self._read(Path(root))
        rest, held = torch.arange(len(train_labels)), self._val_index
        if self.num_held_out and len(train_labels):
            rest, held = splits.hold_out(train_labels, self._quota(train_labels), seed=self.split_seed)
        self._train_index, self._val_index, self._test_labels = rest, held, test_labels
        self._sums = {
            **{f"{part}_inputs_sha256": self._inputs_sha256(part) for part in ("train", "test")},
            "train_labels_sha256": _sha256(train_labels),
            "test_labels_sha256": _sha256(test_labels),
        }
        self.num_train, self.num_val, self.num_test = len(rest), len(held), len(test_labels)

    def train(
        self,
        *,
        epoch: int,
        seed: int,
        batch_size: int | None = None,
        part: tuple[int, int] = (0, 1),
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """One epoch of augmented batches; order and augmentation depend on (seed, epoch) alone.

        See :func:`prunebench.data.splits.training_chunks` for how an epoch is cut and shared among ranks. Which
        pictures are in which ``part`` depends on ``split_seed`` alone.
        """
        index = splits.part_of(self._training(), *part, seed=self.split_seed)
        order = index[splits.epoch_order(len(index), seed=seed, epoch=epoch)]
        size = self.batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        chunks = splits.training_chunks(order, batch_size=size, rank=rank, world_size=world_size)
        return self._batches("train", chunks, (seed, epoch))

    def train_eval(
        self,
        num: int | None = None,
        *,
        draw: str = "",
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Training pictures without augmentation: all in the files' order, or ``num`` random ones.

        The random ones depend on ``split_seed`` and ``draw`` alone, and a smaller ``num`` gives the first of a larger
        one's.
        """
        index = self._training()
        if num is not None:
            what = f"{self.name} has {len(index)} training pictures"
            index = splits.some_of(index, num, seed=self.split_seed, draw=draw, what=what)
        return self._evaluation("train", index, batch_size, rank, world_size)

    def validation(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The held-out pictures without augmentation; no batch at all if ``validation`` is 0."""
        self._training()
        return self._evaluation("train", self._val_index, batch_size, rank, world_size)

    def test(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The official test set, each picture once, in the files' order."""
        assert self._train_index is not None, "call setup first"
        index = torch.arange(self.num_test)
        return self._evaluation("test", index, batch_size, rank, world_size)

    def example(self) -> Tensor:
        """A blank input ``[1, C, size, size]``, for tracing and counting."""
        return torch.zeros(1, self.in_channels, self.size, self.size)

    def use_channels_last(self, channels_last: bool) -> None:
        self.channels_last = channels_last

    def input_facts(self) -> dict[str, Any]:
        return {**super().input_facts(), "mean": self.mean, "std": self.std, "class_names": self.class_names}

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data and the split of a result: counts, seed, hashes of pictures, labels and split."""
        assert self._train_index is not None, "call setup first"
        return {
            "name": self.name,
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "num_classes": self.num_classes,
            "split_seed": self.split_seed,
            **self._sums,
            "validation_index_sha256": _sha256(self._val_index),
        }

    # -- helpers

    def _training(self) -> Tensor:
        assert self._train_index is not None, "call setup first"
        return self._train_index

    def _evaluation(self, part: str, index: Tensor, batch_size: int | None, rank: int, world_size: int) -> Batches:
        size = self.eval_batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        chunks = splits.evaluation_chunks(index, batch_size=size, rank=rank, world_size=world_size)
        return self._batches(part, chunks, None)


def _sha256(values: Tensor) -> str:
    """Of the values and their order, as little-endian 64-bit integers."""
    return hashlib.sha256(values.to(torch.int64).numpy().astype("<i8").tobytes()).hexdigest()
