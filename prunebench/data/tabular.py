"""Regression sets held whole in memory: inputs and targets are rows of numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import fit, validated
from prunebench.config.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from prunebench.data import splits
from prunebench.data.base import Batches, Data
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Inputs ``[N, num_inputs]`` and targets ``[N, num_outputs]``, float32."""

    inputs: Tensor
    targets: Tensor


class RowBatches:
    """Batches of some rows. Iterating again gives the same batches again."""

    def __init__(self, rows: Rows, chunks: Sequence[Tensor], device: torch.device) -> None:
        self.rows, self.chunks, self.device = rows, chunks, device

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.chunks:
            yield self.rows.inputs[index].to(self.device), self.rows.targets[index].to(self.device)


@validated
class TableData(Data):
    """A regression set; batches are float32 ``[B, num_inputs]`` and ``[B, num_outputs]``.

    Args:
        name: in folders, commands and results.
        num_inputs, num_outputs: columns.
        noise_std: standard deviation of the noise in the targets, which a net with ``noise: known`` takes as given.
        target_std: standard deviation of the targets, where a net with ``noise: learned`` starts.
        batch_size, eval_batch_size: rows a step and device, and in evaluation.
        validation: training rows held out, 0 = none.
        split_seed: seed of the held-out draw.

    Raises:
        UserError: a value is out of range.
    """

    task = "regression"
    sample = "example"
    num_classes = 0  # a target is a number, no class

    def __init__(
        self,
        *,
        name: str,
        num_inputs: PositiveInt,
        num_outputs: PositiveInt,
        noise_std: PositiveFloat,
        target_std: PositiveFloat,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        validation: NonNegativeInt,
        split_seed: NonNegativeInt,
    ) -> None:
        self.name, self.num_inputs, self.num_outputs = name, num_inputs, num_outputs
        self.noise_std, self.target_std = float(noise_std), float(target_std)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_held_out, self.split_seed = validation, split_seed
        self.device = torch.device("cpu")
        self.num_train = self.num_val = self.num_test = 0
        self._train: Rows | None = None
        self._test: Rows | None = None
        self._train_index = self._val_index = torch.empty(0, dtype=torch.long)

    @abstractmethod
    def read(self, root: Path) -> tuple[Rows, Rows]:
        """Training and test rows. Raises UserError if a file is missing or broken."""

    def setup(self, root: Path, *, download: bool) -> None:
        """Read the rows and make the splits. A second call does nothing."""
        if self._train is not None:
            return
        train, test = self.read(Path(root))
        for part in (train, test):
            shapes = (part.inputs.shape[1], part.targets.shape[1])
            if shapes != (self.num_inputs, self.num_outputs):
                raise UserError(
                    f"dataset.num_inputs and num_outputs must be {shapes[0]} and {shapes[1]} as of the rows of "
                    f"{self.name}, got {self.num_inputs} and {self.num_outputs}"
                )
        if self.num_held_out >= len(train.inputs):
            raise UserError(
                f"dataset.validation={self.num_held_out} leaves no training row of the {len(train.inputs)} of "
                f"{self.name}; choose a smaller number"
            )
        order = torch.randperm(len(train.inputs), generator=splits.stream("split", self.split_seed))
        held, rest = order[: self.num_held_out].sort().values, order[self.num_held_out :].sort().values
        self._train, self._test, self._train_index, self._val_index = train, test, rest, held
        self.num_train, self.num_val, self.num_test = len(rest), len(held), len(test.inputs)

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
        """One epoch of training rows in an order that depends on (seed, epoch) alone."""
        index = splits.part_of(self._train_index, *part, seed=self.split_seed)
        order = index[splits.epoch_order(len(index), seed=seed, epoch=epoch)]
        size = self.batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        return self._of("train", splits.training_chunks(order, batch_size=size, rank=rank, world_size=world_size))

    def train_eval(
        self,
        num: int | None = None,
        *,
        draw: str = "",
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Training rows in order, or ``num`` random ones that follow from ``split_seed`` and ``draw``."""
        index = self._train_index
        if num is not None:
            what = f"{self.name} has {len(index)} training rows"
            index = splits.some_of(index, num, seed=self.split_seed, draw=draw, what=what)
        return self._evaluation("train", index, batch_size, rank, world_size)

    def validation(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The held-out rows; no batch at all if ``validation`` is 0."""
        return self._evaluation("train", self._val_index, batch_size, rank, world_size)

    def test(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The test rows, in their order."""
        return self._evaluation("test", torch.arange(self.num_test), batch_size, rank, world_size)

    def example(self) -> Tensor:
        """Zeros, ``[1, num_inputs]``."""
        return torch.zeros(1, self.num_inputs)

    def fingerprint(self) -> dict[str, Any]:
        """Counts, seed, and checksums of the rows and the split."""
        assert self._train is not None and self._test is not None, "call setup first"
        return {
            "name": self.name,
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "split_seed": self.split_seed,
            "train_sha256": tensors_sha256(vars(self._train)),
            "test_sha256": tensors_sha256(vars(self._test)),
            "validation_index_sha256": tensors_sha256({"": self._val_index}),
        }

    def _evaluation(self, part: str, index: Tensor, batch_size: int | None, rank: int, world_size: int) -> Batches:
        size = self.eval_batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        return self._of(part, splits.evaluation_chunks(index, batch_size=size, rank=rank, world_size=world_size))

    def _of(self, part: str, chunks: Sequence[Tensor]) -> Batches:
        rows = self._train if part == "train" else self._test
        assert rows is not None, "call setup first"
        return RowBatches(rows, chunks, self.device)
