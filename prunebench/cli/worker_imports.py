"""What a job of a sweep imports, in the order in which a command does; see :mod:`prunebench.cli.worker`."""

from prunebench.cli import worker

worker.leave_warnings()  # at once: the imports take seconds

from prunebench.run import runtime  # noqa: E402

runtime.limit_spinning()  # before torch is imported
runtime.tune_allocator()  # before torch takes its first block

import hydra  # noqa: E402, F401

import prunebench.cli.closing  # noqa: E402
import prunebench.cli.resolve  # noqa: E402
import prunebench.cli.sweeps  # noqa: E402
import prunebench.run.runner  # noqa: E402
import prunebench.training.train_phase  # noqa: E402, F401
