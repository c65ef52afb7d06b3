"""The files of a finished phase: its weights, those of its best epoch, and a record with their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prunebench.disk.artifacts import whole
from prunebench.disk.atomic import remove
from prunebench.disk.seal import file_sha256, read_value, write_value
from prunebench.disk.tensors import read_tensors, write_tensors

RECORD, WEIGHTS, BEST = "phase.json", "weights.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Finished:
    """A finished phase.

    Attributes:
        folder: with its files. ``after``: what it started from.
        record: of the result. ``history``: one record for each epoch.
        weights: ``net.*`` and ``method.*`` after the last epoch.
        has_best: whether there is an epoch that was best on validation.
    """

    folder: Path
    after: str
    record: Mapping[str, Any]
    history: list[dict[str, Any]]
    weights: Mapping[str, Tensor]
    has_best: bool

    def best(self) -> dict[str, Tensor]:
        """The weights of the best epoch."""
        return read_tensors(self.folder / BEST, after=self.after)


def write(
    folder: Path,
    *,
    after: str,
    record: Mapping[str, Any],
    history: list[dict[str, Any]],
    weights: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
) -> None:
    """Write a phase's files; the record comes last."""
    written = {WEIGHTS: weights, **({BEST: best} if best is not None else {})}
    remove(folder / BEST)
    for name, state in written.items():
        write_tensors(folder / name, state, after=after)
    sums = {name: file_sha256(folder / name) for name in written}
    write_value(folder / RECORD, {"record": record, "history": history}, after=after, beside=sums)


def read(folder: Path, *, after: str) -> Finished | None:
    """The finished phase in ``folder``; None if it is not finished, damaged (which is said), or of another start."""

    def read_all() -> Finished:
        done = read_value(folder / RECORD, after=after)
        weights = read_tensors(folder / WEIGHTS, after=after)
        return Finished(folder, after, done["record"], done["history"], weights, (folder / BEST).exists())

    return whole(folder / RECORD, read_all)
