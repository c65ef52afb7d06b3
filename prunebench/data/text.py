"""Running text as a sequence of symbols: cut into parallel streams, read in windows, for language models."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from prunebench.config.arguments import fit, validated
from prunebench.config.ranges import PositiveInt, Range
from prunebench.data.base import Batches, Data
from prunebench.data.splits import stream
from prunebench.errors import UserError

ALL_BYTES = 256


@dataclass(frozen=True)
class Text:
    """The bytes of each split, in their order."""

    train: bytes
    validation: bytes
    test: bytes


@validated
class TextData(Data):
    """A text in bytes, cut into consecutive train, validation and test parts.

    A part of N symbols is cut into B contiguous streams, read side by side in windows of T symbols; the target of a
    symbol is the one behind it, at the end of a stream the first of the next stream. So ``floor((N - 1) / B) * B``
    symbols are predicted, and the last up to B - 1 are not. Every epoch reads the same windows in the same order.

    Args:
        name: name in folders, commands and results.
        num_symbols: size of the vocabulary; 256 = the bytes themselves, else the distinct bytes of the text in rising
            order (a vocabulary may be larger than that, never smaller).
        batch_size: training streams per device.
        window: symbols per training step and stream; gradients go back that far.
        eval_batch_size: streams in evaluation; 1 = the whole text as one stream, nothing left out.
        eval_window: symbols per evaluation step and stream.

    Attributes:
        num_train, num_val, num_test: predicted symbols.

    Raises:
        UserError: a value is out of range.
    """

    task = "language_modelling"
    sample = "symbol"

    def __init__(
        self,
        *,
        name: str,
        num_symbols: Annotated[int, Range(low=2, high=ALL_BYTES)],
        batch_size: PositiveInt,
        window: PositiveInt,
        eval_batch_size: PositiveInt,
        eval_window: PositiveInt,
    ) -> None:
        self.name = name
        self.num_classes = num_symbols
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.window = self.samples_per_example = window
        self.eval_window = eval_window
        self.device = torch.device("cpu")
        self.num_train = self.num_val = self.num_test = 0
        self._parts: dict[str, Tensor] = {}  # uint8 [N], ids
        self._facts: dict[str, Any] = {}

    # -- what a data set writes

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Download what is missing below ``root``. Raises UserError with what to do by hand if it cannot."""

    @abstractmethod
    def read(self, root: Path) -> Text:
        """Read, check and cut the files. Raises UserError if one is missing or broken."""

    # -- what a run calls

    def setup(self, root: Path, *, download: bool) -> None:
        if self._parts:
            return
        if download:
            self.fetch(Path(root))
        text = self.read(Path(root))
        raw = {"train": text.train, "validation": text.validation, "test": text.test}
        ids, seen = self._vocabulary(raw)
        self._parts = {part: ids[_bytes(content).long()].to(self.device) for part, content in raw.items()}
        self._facts = {
            "num_symbols": self.num_classes,
            "num_symbols_seen": seen,
            **{f"num_bytes_{part}": len(content) for part, content in raw.items()},
            **{f"{part}_sha256": hashlib.sha256(content).hexdigest() for part, content in raw.items()},
        }
        self.num_train = self._streams("train", self.batch_size).predicted
        self.num_val = self._streams("validation", self.eval_batch_size).predicted
        self.num_test = self._streams("test", self.eval_batch_size).predicted

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
        """One epoch: every stream from its beginning, whatever ``epoch`` and ``seed`` are.

        With several ranks each has ``batch_size`` streams of its own. A ``part`` is a contiguous piece of the text.
        """
        size = self.batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        ids, (k, num_parts) = self._part("train"), part
        piece = ids[k * len(ids) // num_parts : (k + 1) * len(ids) // num_parts]
        return self._batches(piece, size, self.window, rank, world_size)

    def train_eval(
        self,
        num: int | None = None,
        *,
        draw: str = "",
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """The training text in evaluation windows: all of it, or a piece with ``num`` predicted symbols.

        The piece is the beginning, or begins where ``draw`` says.
        """
        ids = self._part("train")
        if num is None:
            return self._evaluation(ids, batch_size, rank, world_size)
        if not 1 <= num < len(ids):
            raise UserError(f"{self.name} has {len(ids) - 1} training symbols, {num} were asked for")
        start = int(torch.randint(len(ids) - num, (), generator=stream("train_eval", draw))) if draw else 0
        return self._evaluation(ids[start : start + num + 1], batch_size, rank, world_size)

    def validation(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        return self._evaluation(self._part("validation"), batch_size, rank, world_size)

    def test(self, *, batch_size: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
        return self._evaluation(self._part("test"), batch_size, rank, world_size)

    def example(self) -> Tensor:
        """One training window of the first symbol, int64 ``[1, window]``."""
        return torch.zeros(1, self.window, dtype=torch.long)

    def context(self) -> dict[str, Any]:
        """How evaluation presents the text: bits per character say little without it.

        ``window`` and ``stride`` in symbols (each symbol is predicted once), ``streams`` read side by side.
        """
        return {"window": self.eval_window, "stride": self.eval_window, "streams": self.eval_batch_size}

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        self._parts = {part: ids.to(self.device) for part, ids in self._parts.items()}

    def fingerprint(self) -> dict[str, Any]:
        """Counts, vocabulary and a hash of the bytes of each split."""
        assert self._parts, "call setup first"
        return {
            "name": self.name,
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            **self._facts,
        }

    # -- helpers

    def _vocabulary(self, raw: dict[str, bytes]) -> tuple[Tensor, int]:
        """Byte → id, uint8 [256], and the number of distinct bytes."""
        present = torch.zeros(ALL_BYTES, dtype=torch.bool)
        for content in raw.values():
            present[_bytes(content).long().unique()] = True
        seen = int(present.sum())
        if seen > self.num_classes:
            raise UserError(
                f"dataset.num_symbols={self.num_classes} is too small: the text of {self.name} has {seen} distinct "
                f"bytes; {ALL_BYTES} always suffices"
            )
        if self.num_classes == ALL_BYTES:
            return torch.arange(ALL_BYTES).to(torch.uint8), seen
        return (present.cumsum(0) - 1).clamp_min(0).to(torch.uint8), seen

    def _part(self, part: str) -> Tensor:
        assert self._parts, "call setup first"
        return self._parts[part]

    def _streams(self, part: str, streams: int) -> _Streams:
        return _Streams(self._part(part), streams, self.name)

    def _evaluation(self, ids: Tensor, batch_size: int | None, rank: int, world_size: int) -> Batches:
        size = self.eval_batch_size if batch_size is None else fit(batch_size, PositiveInt, "batch_size")
        return self._batches(ids, size, self.eval_window, rank, world_size)

    def _batches(self, ids: Tensor, size: int, window: int, rank: int, world_size: int) -> Batches:
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        streams = _Streams(ids, size * world_size, self.name)
        mine = slice(rank * size, (rank + 1) * size)
        return WindowBatches(streams.inputs[mine], streams.targets[mine], window)


class _Streams:
    """``inputs`` and ``targets`` [streams, steps] of a text of ids [N], both views of it."""

    def __init__(self, ids: Tensor, streams: int, name: str) -> None:
        steps = max(0, len(ids) - 1) // streams
        if not steps:
            raise UserError(f"a text of {len(ids)} symbols of {name} cannot be cut into {streams} streams; use fewer")
        self.predicted = steps * streams
        self.inputs = ids[: self.predicted].view(streams, steps)
        self.targets = ids[1 : self.predicted + 1].view(streams, steps)


class WindowBatches:
    """Windows of parallel streams, in order, as int64 ``(inputs, targets)`` of ``[streams, time]``.

    The last window may be shorter. Iterating again begins again.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, window: int) -> None:
        self.inputs, self.targets, self.window = inputs, targets, window

    def __len__(self) -> int:
        return -(-self.inputs.shape[1] // self.window)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.inputs.shape[1], self.window):
            part = slice(start, start + self.window)
            yield self.inputs[:, part].long(), self.targets[:, part].long()


def shares(num: int) -> tuple[int, int]:
    """Where validation and test begin in a text of ``num`` bytes: behind 90 % and 95 %, as in enwik8."""
    return num * 90 // 100, num * 95 // 100


def split(content: bytes) -> Text:
    """The first 90 % to train, the next 5 % to validate, the last 5 % to test."""
    first, second = shares(len(content))
    return Text(content[:first], content[first:second], content[second:])


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
