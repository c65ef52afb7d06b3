"""What a run needs of any data set: splits, batches, counts, and the task that it is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Batches ``(inputs, targets)``: the first dimension of both counts what is processed side by side."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Data(ABC):
    """A data set with train, validation and test split.

    Attributes:
        task: what it is for: a key of ``prunebench.core.task.TASKS``.
        sample: what one sample is, in words; all counts, costs and metrics are per sample.
        samples_per_example: samples in ``example()``.
        name: in folders, commands and results.
        num_classes: number of values that a target can take.
        batch_size: training samples, or streams of them, per step and device, unless a phase says another number.
        num_train, num_val, num_test: samples per split, known after ``setup``.
        device: where the batches are.
    """

    task: ClassVar[str]
    sample: ClassVar[str]
    samples_per_example: int = 1
    name: str
    num_classes: int
    batch_size: int
    num_train: int
    num_val: int
    num_test: int
    device: torch.device

    @abstractmethod
    def setup(self, root: Path, *, download: bool) -> None:
        """Read and check the files below ``root`` and make the splits. A second call does nothing.

        Raises:
            UserError: a file is missing, truncated or not the official one, in one sentence with the remedy.
        """

    @abstractmethod
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
        """One epoch of training batches: a function of (seed, epoch).

        Args:
            part: ``(k, n)``: of the k-th of n equal parts of the training set, which are the same in each epoch.
        """

    @abstractmethod
    def train_eval(
        self,
        num: int | None = None,
        *,
        draw: str = "",
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Training samples as in evaluation: all, or ``num`` of them; which ones follows from ``draw``."""

    @abstractmethod
    def validation(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The samples that select the best epoch; no batch at all if there are none."""

    @abstractmethod
    def test(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        """The test set, in the files' order."""

    def further_tests(self) -> Mapping[str, Batches]:
        """Further labelled sets that no run trains on or is judged by, name -> batches; most data sets have none."""
        return {}

    def truth(self) -> Mapping[str, int]:
        """What is known of the function behind made-up data: ``nodes`` = hidden nodes of the net that made them,
        ``inputs`` = so many of the first inputs have a meaning. Empty for real data."""
        return {}

    @abstractmethod
    def example(self) -> Tensor:
        """One input with a batch dimension of 1, for tracing, counting and timing."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data and the split of a result."""

    def to(self, device: torch.device | str) -> None:
        """Give the batches on ``device`` from now on."""
        self.device = torch.device(device)

    def use_channels_last(self, channels_last: bool) -> None:
        """Memory format of the batches, where they are images."""
        return

    def input_facts(self) -> dict[str, Any]:
        """What a saved net must say about its inputs: keyword arguments of ``prunebench.nets.package.save``."""
        example = self.example()
        return {"example_shape": tuple(example.shape), "example_dtype": example.dtype}
