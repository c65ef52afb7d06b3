"""How many CPU threads a run uses: as many as its work pays for, and the same when it is resumed."""

from __future__ import annotations

import torch

from prunebench.disk import artifacts
from prunebench.disk.seal import read_value
from prunebench.run.job import Job

AVAILABLE = torch.get_num_threads()
"""What torch would take: the cores that this process may use, or ``OMP_NUM_THREADS``, which launchers set for a job."""

MACS_PER_THREAD = 100_000_000
"""Of a layer in one training batch. About 2 ms of work: with less, threads wait for each other longer than they work
(ResNet-56 on 8x8 digits: 28 s with one thread, 25 s with two, and 8 times that beside another run with two)."""
FILE = "stored/threads.json"


def settle(job: Job) -> int:
    """Set torch's threads to ``trainer.num_threads``, or to what the run began with, or to what its net is worth.

    Nothing is written: see :func:`keep`.
    """
    asked = job.settings.num_threads
    if asked is None:
        path = job.folder / FILE
        asked = artifacts.whole(path, lambda: int(read_value(path, after=""))) or worth(job)
    torch.set_num_threads(asked)
    return asked


def keep(job: Job, number: int) -> None:
    """Store how many threads the run has, for when it is resumed: the last bits of its numbers follow from it."""
    if job.settings.num_threads is None:
        artifacts.once(job.folder / FILE, lambda: number)


def worth(job: Job) -> int:
    """One thread for each :data:`MACS_PER_THREAD` of a mean layer, at most as many as torch would take."""
    batch = max((phase.batch_size or job.data.batch_size for phase in job.phases), default=1)
    layers = max(1, sum(row["macs"] > 0 for row in job.dense.cost.per_layer))
    macs = job.dense.cost.macs * job.data.samples_per_example / layers
    return max(1, min(AVAILABLE, int(macs * batch / MACS_PER_THREAD)))
