"""Processes that train together: one net, and none of them outlives the others."""

from __future__ import annotations

import multiprocessing
import signal

from pytorch_lightning.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException

from prunebench.core.processes import end_with
from prunebench.errors import UserError


class Ranks(DDPStrategy):
    """Data parallel training in processes that are started from here, not by running the command again.

    In a sweep the latter would run the whole sweep on each rank, and here the plan is decided once, before the ranks
    exist. A parameter that a pass does not use has no gradient, as on one device.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn", find_unused_parameters=True)

    def setup_environment(self) -> None:
        """The first call in a rank: from now on it ends when the process that started it does."""
        if (parent := multiprocessing.parent_process()) is not None:
            end_with(parent.sentinel)
        super().setup_environment()

    def on_train_start(self) -> None:
        """A rank is ended at once, also while it waits for the others: Lightning's handler would wait as well."""
        super().on_train_start()
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_exception(self, exception: BaseException) -> None:
        """Where training ends early the ranks do, before their folder is unlocked."""
        super().on_exception(exception)
        for process in getattr(self.launcher, "procs", ()):
            if process.is_alive():
                process.kill()
            process.join()


def ended(error: ProcessExitedException, phase: str) -> UserError:
    """What to tell of a rank that somebody ended."""
    how = f"by {error.signal_name}" if error.signal_name else f"with exit code {error.exit_code}"
    why = " (it often means that memory ran out)" if error.signal_name == "SIGKILL" else ""
    return UserError(
        f"phase {phase}: process {error.error_index} of those that train together was ended {how}{why}; "
        "the same command goes on after the last complete epoch"
    )
