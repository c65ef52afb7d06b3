"""How Lightning writes and reads a phase's checkpoints: beside their target, with a checksum, from one place."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from prunebench.disk.artifacts import whole
from prunebench.disk.atomic import remove
from prunebench.disk.seal import read_with_trailer, write_with_trailer

LAST, BEST = "last.ckpt", "best.ckpt"


class SealedCheckpoints(CheckpointIO):
    """Whole files with a checksum.

    Lightning's own writer moves a file out of ``TMPDIR``, which may be another file system, and trusts what it reads.

    Args:
        after: what the phase starts from; a checkpoint of another start is not resumed.
    """

    def __init__(self, after: str) -> None:
        self.after = after

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_with_trailer(Path(path), buffer.getvalue(), after=self.after)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), after=self.after, map_location=map_location)

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def read_checkpoint(path: Path, *, after: str, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint of plain data and tensors.

    Raises:
        Damaged: it is missing or not what was written.
    """
    content = io.BytesIO(read_with_trailer(path, after=after))
    found: dict[str, Any] = torch.load(content, map_location=map_location, weights_only=True)
    return found


def resumable(folder: Path, *, after: str) -> Path | None:
    """The checkpoint of the last complete epoch, if it and the best epoch that it knows of are whole.

    Else both are removed, and the phase starts anew.
    """

    def read() -> Path:
        last = read_checkpoint(folder / LAST, after=after)
        for state in last["callbacks"].values():
            if os.path.basename(state.get("best_model_path") or "") == BEST:
                read_checkpoint(folder / BEST, after=after)
        return folder / LAST

    found = whole(folder / LAST, read)
    if found is None:
        for name in (LAST, BEST):
            remove(folder / name)
    return found
