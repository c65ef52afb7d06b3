"""The only code that makes a Trainer: one ``fit`` per phase, its checkpoints, history, progress and loggers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import TaskID as RichTask

from prunebench.errors import UserError, nearest
from prunebench.lit import Lit
from prunebench.settings import TrainerSettings

LOGGERS = ("csv", "tensorboard", "wandb")

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
# our loaders are whole-set tensors without workers, on purpose
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


def fit(
    lit: Lit, *, settings: TrainerSettings, folder: Path, loggers: list[Logger], resume: Path | None
) -> list[dict[str, Any]]:
    """Train ``lit`` to the end of its phase, from ``resume`` if there is such a checkpoint.

    Returns:
        One record per epoch: ``epoch``, ``lr``, ``seconds``, the loss terms and the validation metrics.

    Raises:
        UserError: the loss became infinite; ``last.ckpt`` of the last complete epoch stays in ``folder``.
    """
    callbacks: list[pl.Callback] = [
        History(),
        # save_last of a monitored callback skips epochs that do not improve, hence two callbacks
        ModelCheckpoint(
            dirpath=folder,
            filename="last",
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if lit.data.num_val:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder,
                filename="best",
                monitor=lit.task.monitor,
                mode=lit.task.mode,
                save_weights_only=True,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    if settings.progress:
        callbacks.append(PhaseProgress())
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        # started from here, not by running the command again: in a sweep the latter would run the whole sweep on
        # each rank, and here the plan is decided once, before the ranks exist
        strategy=DDPStrategy(start_method="spawn") if settings.strategy == "ddp" else "auto",
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,  # type: ignore[arg-type]
        max_epochs=lit.phase.epochs,
        gradient_clip_val=lit.phase.clip_norm,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=1_000_000_000,
    )
    try:
        trainer.fit(lit, ckpt_path=resume, weights_only=True if resume else None)
    except torch.multiprocessing.ProcessRaisedException as error:  # type: ignore[attr-defined]
        _reraise(error)
    if not trainer.state.finished:
        raise KeyboardInterrupt(f"phase {lit.phase.name} was interrupted")
    return read_history(folder / "last.ckpt")


def _reraise(error: Exception) -> None:
    """Turn a worker's ``UserError`` back into one; the workers' exceptions arrive as text."""
    marker = "prunebench.errors.UserError: "
    text = str(error)
    if marker in text:
        raise UserError(text.split(marker, 1)[1].strip().splitlines()[0]) from None
    raise error


def read_history(checkpoint: Path) -> list[dict[str, Any]]:
    """The epoch records inside a checkpoint; they are read from there because workers may have trained."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    records: list[dict[str, Any]] = state["callbacks"][History.__name__]["records"]
    return records


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
        self._console = console
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
        text = "  ".join(f"{name} {value:.4f}" for name, value in sorted(shown.items()))
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


class Guarded(Logger):
    """A logger that may fail without failing the run: the first error is a warning, the rest is silent."""

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self._inner: Logger | None = inner

    @property
    def name(self) -> str | None:
        return "guarded"

    @property
    def version(self) -> str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self._try("log_metrics", dict(metrics), step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config file is the record."""

    def finalize(self, status: str) -> None:
        self._try("finalize", status)

    def _try(self, call: str, *args: Any) -> None:
        if self._inner is None:
            return
        try:
            getattr(self._inner, call)(*args)
        except Exception as error:
            warnings.warn(f"the logger stopped ({error}); the run goes on, metrics.csv has everything", stacklevel=2)
            self._inner = None


def build_loggers(settings: Mapping[str, Any], *, folder: Path, run: str, phase: str) -> list[Logger]:
    """Loggers beside ``metrics.csv``, which is always written. A logger that cannot start is a warning.

    Args:
        settings: the config group ``logger``: ``name`` (csv, tensorboard, wandb) and the logger's own options.
        run, phase: label the curves.
    """
    name = settings["name"]
    if name not in LOGGERS:
        raise UserError(f"logger={name} is unknown; use one of: {', '.join(LOGGERS)}{nearest(name, LOGGERS)}")
    if name == "csv":
        return []
    try:
        if name == "tensorboard":
            return [Guarded(TensorBoardLogger(folder / "tensorboard", name="", version=phase))]
        folder.mkdir(parents=True, exist_ok=True)
        inner = WandbLogger(
            name=f"{run}/{phase}",
            project=settings["project"],
            offline=not settings["online"],
            save_dir=folder,
        )
        inner.experiment  # noqa: B018 - starts the run now, inside the guard
        return [Guarded(inner)]
    except Exception as error:
        warnings.warn(f"logger={name} could not start ({error}); the run goes on without it", stacklevel=2)
        return []
