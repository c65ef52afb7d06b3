"""``--force``: a complete run again. Its folder moves aside first and stays there, so that no result is ever lost."""

from __future__ import annotations

import os
from pathlib import Path

from prunebench.disk.lock import FolderLock
from prunebench.errors import UserError

FORCED = "PRUNEBENCH_FORCE"
"""Set where a command was given ``--force``, also in the processes that it starts."""
PLACE = "replaced"
"""Below the folder of outputs: runs that were made again, ``<their place in runs>-<number>``."""


def forced() -> bool:
    """Whether complete runs are to be run again."""
    return bool(os.environ.get(FORCED))


def set_aside(folder: Path, outputs: Path) -> Path:
    """Move a run ``<outputs>/runs/…`` out of the way; where it lies then.

    What it shares with other runs, a trained dense net or times of layers, stays where it is.

    Raises:
        UserError: another process writes to it, or it cannot be moved.
    """
    place = outputs / PLACE / folder.relative_to(outputs / "runs")
    with FolderLock(folder):
        number = 1
        while (target := place.with_name(f"{place.name}-{number}")).exists():
            number += 1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        except OSError as error:
            raise UserError(f"{folder} cannot be moved to {target} ({error.strerror}); it stays as it is") from None
    return target
