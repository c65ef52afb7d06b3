"""What happens at the end of an epoch beside the training: a record for the history, a bar for the reader."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import TaskID as RichTask

from prunebench.measure.metrics import METRICS, VALIDATION
from prunebench.training.lit import Lit


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


class PhaseProgress(pl.Callback):
    """A bar over all steps of the phase with the time left; without a terminal, a line now and then."""

    quiet_seconds = 10.0

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = RichTask(0)
        self._printed = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console()
        assert isinstance(pl_module, Lit)
        self._begun, self._first = time.perf_counter(), trainer.current_epoch
        if console.is_terminal:
            steps = int(trainer.num_training_batches)
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=console,
                refresh_per_second=2,
            )
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
        text = "  ".join(_words(name, value) for name, value in sorted(shown.items()))
        if self._bar is not None:
            self._bar.update(self._task, metrics=text)
            return
        done, total = trainer.current_epoch + 1, pl_module.phase.epochs
        if done == total or time.perf_counter() - self._printed > self.quiet_seconds:
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
