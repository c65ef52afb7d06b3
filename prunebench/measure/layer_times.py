"""Times of single layers on this machine, measured once and kept: what the widths of a net cost.

The time of a convolution is no share of its multiply-accumulates: on a processor with 16 floats a vector it is a
staircase of 16 channels in large batches. A table is filled as it is asked, with the least of several runs that are
interleaved, and kept in a file for each machine, program, number of threads and batch size.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.disk.atomic import write_text
from prunebench.disk.seal import text_sha256
from prunebench.errors import UserError
from prunebench.measure.latency import TORCH, device_name
from prunebench.measure.operations import BRANCHES, Call, Operation

ROUNDS = 7  # interleaved runs, the least of which counts
MIN_SECONDS = 1e-3  # of one run: a shorter operation is repeated in it
CHUNK = 64  # operations in memory at a time


class LayerTimes:
    """A table of seconds.

    Args:
        engine: ``torch`` or ``onnxruntime``.
        batch: samples of one call.
        channels_last: memory format of torch's tensors.
        folder: where the table is kept; None = in memory.

    Raises:
        UserError: the file that is there is no such table.
    """

    def __init__(self, *, engine: str, batch: int, channels_last: bool = False, folder: Path | None = None) -> None:
        self.circumstances: dict[str, Any] = {
            "machine": device_name("cpu"),
            "engine": engine,
            "threads": torch.get_num_threads(),
            "dtype": "float32",
            "memory_format": "channels_last" if channels_last and engine == TORCH else "contiguous",
            "batch": batch,
        }
        words = "-".join(str(value) for value in self.circumstances.values())
        self.path = None if folder is None else folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', words).strip('_')}.json"
        self._seconds = self._read()

    def seconds(self, wanted: Iterable[Operation]) -> dict[Operation, float]:
        """Of each operation; those that the table lacks are measured."""
        wanted = list(dict.fromkeys(wanted))
        missing = [operation for operation in wanted if operation.key not in self._seconds]
        for start in range(0, len(missing), CHUNK):
            self._measure(missing[start : start + CHUNK])
        if missing and self.path is not None:
            self._write()
        return {operation: self._seconds[operation.key] for operation in wanted}

    @property
    def sha256(self) -> str:
        """Of all that the table holds."""
        return text_sha256(self._text())

    def _measure(self, operations: Sequence[Operation]) -> None:
        engine, threads = self.circumstances["engine"], self.circumstances["threads"]
        inputs: dict[tuple[int, ...], Tensor] = {}
        calls: dict[Operation, tuple[Call, int]] = {}
        for operation in operations:
            shape = (self.circumstances["batch"], operation.reads, *operation.size)
            if shape not in inputs:
                inputs[shape] = self._input(shape)
            x = inputs[shape]
            call = operation.torch(x) if engine == TORCH else operation.onnxruntime(x, threads)
            call()
            calls[operation] = (call, max(1, round(MIN_SECONDS / max(_timed(call, 1), 1e-9))))
        least = dict.fromkeys(calls, float("inf"))
        for _ in range(ROUNDS):
            for operation, (call, number) in calls.items():
                least[operation] = min(least[operation], _timed(call, number))
        copies = 1 if engine == TORCH else BRANCHES
        self._seconds |= {operation.key: seconds / copies for operation, seconds in least.items()}

    def _input(self, shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        last = self.circumstances["memory_format"] == "channels_last" and len(shape) == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x

    def _text(self) -> str:
        return json.dumps({**self.circumstances, "seconds": dict(sorted(self._seconds.items()))}, indent=1) + "\n"

    def _read(self) -> dict[str, float]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            times: Mapping[str, Any] = found["seconds"]
            known = {str(key): float(value) for key, value in times.items()}
            if {key: found.get(key) for key in self.circumstances} != self.circumstances or min(known.values()) <= 0:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{self.path} holds no times of layers; remove it, and they are measured again") from None
        return known

    def _write(self) -> None:
        assert self.path is not None
        self._seconds = {**self._read(), **self._seconds}  # another run may have measured meanwhile
        write_text(self.path, self._text())


def least_seconds(call: Call) -> float:
    """Of one call, the least of several runs."""
    call()
    number = max(1, round(MIN_SECONDS / max(_timed(call, 1), 1e-9)))
    return min(_timed(call, number) for _ in range(ROUNDS))


def _timed(call: Call, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number
