"""What happens at the end of an epoch beside the training: a record for the history, a bar for the reader."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TaskID as RichTask
from rich.table import Column

from prunebench.measure.metrics import METRICS, VALIDATION
from prunebench.training.lit import Lit

log = logging.getLogger("prunebench")
BRIEF = "PRUNEBENCH_BRIEF"
"""Set in a job of a sweep: it says what goes wrong and no more, the sweep says the rest."""


class History(pl.Callback):
    """One record per epoch; part of the checkpoint, so that a resumed phase has the whole history."""

    state_key = "History"

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._started = 0.0
        self._lr = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        seconds = time.perf_counter() - self._started
        self.records.append({"epoch": trainer.current_epoch, "lr": self._lr, "seconds": seconds, **metrics})
        for logger in trainer.loggers:  # it is no metric of the net, so Lightning does not log it
            logger.log_metrics({"lr": self._lr, "epoch": trainer.current_epoch}, trainer.global_step)
        assert isinstance(pl_module, Lit)
        pl_module.follow(self.records)  # before the checkpoint, which holds the next epoch's rate

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = state_dict["records"]


class Estimate(pl.Callback):
    """One line in the log on how long a long phase will take, from the speed of its first batches."""

    first, seconds, worth_saying = 5, 5.0, 600.0
    """Batches that only warm up; how long the others are watched; a phase that takes less says nothing."""

    def __init__(self) -> None:
        self._done = False
        self._count = 0
        self._since = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._done or not trainer.is_global_zero:
            return
        self._count += 1
        if self._count <= self.first:
            self._since = time.perf_counter()
            return
        watched = time.perf_counter() - self._since
        if watched < self.seconds and trainer.current_epoch == 0:
            return
        self._done = True
        assert isinstance(pl_module, Lit)
        each = watched / (self._count - self.first)
        batches, epochs = int(trainer.num_training_batches), pl_module.phase.epochs
        left = each * (batches * (epochs - trainer.current_epoch) - batch_idx - 1)
        if left >= self.worth_saying:
            spoken = f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
            log.info(
                "phase %s will take about %s: %d epochs of %d batches, %.3g s each, without validation",
                *(pl_module.phase.name, spoken, epochs, batches, each),
            )


def bar(console: Console) -> Progress:
    """A bar that fits into one line of the terminal: what the epoch gave takes the place that is left."""
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False, table_column=rest),
        console=console,
        refresh_per_second=2,
        expand=True,
    )


class PhaseProgress(pl.Callback):
    """A bar over all steps of the phase with the time left; without a terminal, a line now and then."""

    quiet_seconds = 10.0

    def __init__(self) -> None:
        if os.environ.get(BRIEF):
            self.quiet_seconds = 120.0
        self._printed = 0.0
        self._bar: Progress | None = None
        self._task = RichTask(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console()
        assert isinstance(pl_module, Lit)
        self._begun, self._first = time.perf_counter(), trainer.current_epoch
        if console.is_terminal:
            steps = int(trainer.num_training_batches)
            self._bar = bar(console)
            self._task = self._bar.add_task(
                pl_module.phase.name,
                total=pl_module.phase.epochs * steps,
                completed=trainer.current_epoch * steps,
                metrics="",
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Lit)
        shown = {name: float(v) for name, v in trainer.callback_metrics.items()}
        # what is validated first: a narrow terminal cuts the rest off
        ordered = sorted(shown.items(), key=lambda item: (not item[0].startswith(VALIDATION), item[0]))
        text = "  ".join(_words(name, value) for name, value in ordered)
        if self._bar is not None:
            self._bar.update(self._task, metrics=text)
            return
        done, total = trainer.current_epoch + 1, pl_module.phase.epochs
        last = done == total and not os.environ.get(BRIEF)
        if last or time.perf_counter() - max(self._printed, self._begun) > self.quiet_seconds:
            self._printed = time.perf_counter()
            left = (self._printed - self._begun) / (done - self._first) * (total - done)
            print(f"{pl_module.phase.name}  epoch {done}/{total}  {text}  {left:.0f} s left", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _words(name: str, value: float) -> str:
    """A logged value for the reader: a validation metric as in all tables, a term of the loss with four decimals."""
    metric = METRICS.get(name.removeprefix(VALIDATION)) if name.startswith(VALIDATION) else None
    return f"{name} {value:.4f}" if metric is None else f"{name} {metric.show(value)}{metric.unit.mark}"
