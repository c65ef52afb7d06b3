"""Train one phase to its end and store the outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from prunebench.config.phase import Phase
from prunebench.config.settings import TrainerSettings
from prunebench.core.method import Method
from prunebench.core.task import Task
from prunebench.data.base import Batches, Data
from prunebench.disk import finished
from prunebench.disk.atomic import remove
from prunebench.disk.stopwatch import Stopwatch
from prunebench.training.fit import fit
from prunebench.training.lit import Lit
from prunebench.training.loggers import build_loggers
from prunebench.training.sealed_checkpoints import BEST, LAST, read_checkpoint, resumable

log = logging.getLogger("prunebench")
TIMES = "times.json"
"""In the folder of a phase until it is finished."""


def train_phase(
    net: nn.Module,
    method: Method,
    *,
    phase: Phase,
    task: Task,
    data: Data,
    streams: Mapping[str, Callable[[int], Batches]],
    seed: int,
    step_macs: int,
    teacher_macs: int | None,
    settings: TrainerSettings,
    logger: Mapping[str, Any],
    run_name: str,
    run_folder: Path,
    folder: Path,
    after: str,
) -> None:
    """Train ``net`` under ``method`` from the last complete epoch in ``folder``, if there is one.

    ``folder`` then holds ``weights.safetensors`` (last epoch), ``best.safetensors`` (best on validation) and, written
    last, ``phase.json``, which knows their checksums.

    Args:
        step_macs: multiply-accumulates of one sample's forward and backward pass.
        teacher_macs: of one sample's pass through a teacher, which counts as training too; None = there is none.
        run_folder: where loggers write; ``folder`` may be shared with other runs.
        after: what the phase starts from: the checksum of net and method.
    """
    seen = _samples_an_epoch(phase, data, streams, seed=seed, devices=settings.devices)
    part = "" if seen == data.num_train else f"{seen} of "
    log.info("phase %s: %d epochs on %s%d %ss", phase.name, phase.epochs, part, data.num_train, data.sample)
    lit = Lit(net.train(), method, task, phase, data, seed=seed, streams=streams)
    loggers = build_loggers(logger, folder=run_folder, run=run_name, phase=phase.name)
    with Stopwatch(folder / TIMES, after=after) as clock:
        try:
            history = fit(
                lit,
                settings=settings,
                folder=folder,
                loggers=loggers,
                resume=resumable(folder, after=after),
                after=after,
            )
        finally:
            for started in loggers:
                started.close()
    best = read_checkpoint(folder / BEST, after=after) if (folder / BEST).exists() else None
    spent, samples = method.spent_macs(), data.num_train * phase.epochs * (phase.epoch_share or 1)
    if spent is None:
        spent = round(step_macs * samples)
    taught = {}
    if teacher_macs is not None:
        taught = {"teacher_macs": round(teacher_macs * samples)}
        spent += taught["teacher_macs"]
    record = {
        "name": phase.name,
        "epochs": phase.epochs,
        "seconds": sum(row["seconds"] for row in history),
        "wall_seconds": clock.seconds,
        "train_macs": spent,
        **taught,
        "lr": [row["lr"] for row in history],
        "best_epoch": int(best["epoch"]) if best else phase.epochs - 1,
        "selected_epoch": phase.epochs - 1,
        "settings": asdict(phase),
    }
    finished.write(
        folder,
        after=after,
        record=record,
        history=history,
        weights=lit.state_dict(),
        best=best["state_dict"] if best else None,
    )
    for name in (LAST, BEST, TIMES):
        remove(folder / name)


def _samples_an_epoch(
    phase: Phase, data: Data, streams: Mapping[str, Callable[[int], Batches]], *, seed: int, devices: int
) -> int:
    """So many samples an epoch passes over: all, or with a share of the batches those of the first ones."""
    if (phase.epoch_share or 1) == 1:
        return data.num_train
    own = data.train(epoch=0, seed=seed, batch_size=phase.batch_size, world_size=devices)
    num = min(map(len, (own, *(batches(0) for batches in streams.values()))))
    used = int(num * (phase.epoch_share or 1))
    if streams:  # their batches are of the method's own sizes
        return round(data.num_train * used / num)
    per_step = (phase.batch_size or data.batch_size) * devices * data.samples_per_example
    return min(data.num_train, used * per_step)
