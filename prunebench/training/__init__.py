"""One phase's training with Lightning: the only package that imports it, and it takes seconds to import."""

from __future__ import annotations

import logging
import multiprocessing
import warnings

import pytorch_lightning  # noqa: F401 - it sets the level of its logger when it is imported, so before ours

KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # our loaders are whole-set tensors without workers, on purpose
    ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 against torch 2.13
    ".*Checkpoint directory .* exists and is not empty.*",  # so it is when a phase is resumed
    ".*is smaller than the logging interval.*",  # curves have a point per epoch
    ".*The `srun` command is available.*",  # on a cluster's login node; the launchers start jobs, not Lightning
    ".*find_unused_parameters=True was specified.*",  # whether a net has such parameters is its own affair
    ".*lr_scheduler.step.* before .optimizer.step.*",  # a method may let the first steps of a phase pass
)


def hide_known_warnings() -> None:
    """Ignore what Lightning says and nobody can act upon; call it inside ``warnings.catch_warnings``."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
if multiprocessing.parent_process() is not None:
    hide_known_warnings()  # a worker of ours has nobody to restore the filters for
