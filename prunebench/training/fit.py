"""The only code that makes a Trainer: one ``fit`` per phase, with the checkpoints to resume from and to select."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.utilities.exceptions import (  # type: ignore[attr-defined]
    MisconfigurationException,
    SIGTERMException,
)
from torch import Tensor

from prunebench.config.settings import TrainerSettings
from prunebench.errors import Terminated, UserError
from prunebench.training import hide_known_warnings
from prunebench.training.callbacks import Estimate, History, PhaseProgress
from prunebench.training.lit import Lit
from prunebench.training.ranks import Ranks, ended
from prunebench.training.sealed_checkpoints import LAST, SealedCheckpoints, read_checkpoint


def fit(
    lit: Lit, *, settings: TrainerSettings, folder: Path, loggers: Sequence[Logger], resume: Path | None, after: str
) -> list[dict[str, Any]]:
    """Train ``lit`` to the end of its phase, from ``resume`` if there is such a checkpoint.

    Args:
        after: what the phase starts from, see :mod:`prunebench.disk.seal`.

    Returns:
        One record per epoch: ``epoch``, ``lr``, ``seconds``, the loss terms and the validation metrics.

    Raises:
        UserError: the loss became infinite; ``last.ckpt`` of the last complete epoch stays in ``folder``.
    """
    callbacks: list[pl.Callback] = [History(), Estimate()]
    if lit.data.num_val:
        callbacks.append(_checkpoint(folder, "best", monitor=lit.task.monitor, mode=lit.task.mode, weights_only=True))
    # save_last of a monitored callback skips epochs that do not improve, hence two callbacks; this one comes after the
    # other, so that what is resumed knows the best score of the same epoch
    callbacks.append(_checkpoint(folder, "last"))
    if settings.progress:
        callbacks.append(PhaseProgress())
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=Ranks() if settings.strategy == "ddp" else "auto",
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,  # type: ignore[arg-type]
        max_epochs=lit.phase.epochs,
        accumulate_grad_batches=lit.phase.accumulate if lit.automatic_optimization else 1,
        callbacks=callbacks,
        # one way to resume, ours: on a cluster Lightning would answer the requeue signal with a checkpoint of its own,
        # in mid-epoch, and take whatever it finds in its folder, which is why that one does not exist
        plugins=[SealedCheckpoints(after), LightningEnvironment()],
        default_root_dir=folder / "no-checkpoints-of-its-own",
        logger=list(loggers),
        num_sanity_val_steps=0,
        limit_train_batches=float(lit.phase.epoch_share or 1),
        limit_val_batches=1.0 if lit.data.num_val else 0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=1_000_000_000,
    )
    try:
        with warnings.catch_warnings():
            hide_known_warnings()
            trainer.fit(lit, ckpt_path=resume, weights_only=True if resume else None)
    except MisconfigurationException as error:
        if "limit_train_batches" not in str(error):
            raise
        raise UserError(
            f"schedule.phases.{lit.phase.name}.epoch_share={lit.phase.epoch_share} leaves no whole batch; "
            "raise it or lower batch_size"
        ) from None
    except torch.multiprocessing.ProcessRaisedException as error:  # type: ignore[attr-defined]
        _reraise(error)
    except torch.multiprocessing.ProcessExitedException as error:  # type: ignore[attr-defined]
        raise ended(error, lit.phase.name) from None
    except SIGTERMException:  # the end of a job's time on a cluster; as a SystemExit it would look like success
        raise Terminated(f"phase {lit.phase.name} was terminated") from None
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        kind = type(error.__context__)
        raise kind(f"phase {lit.phase.name} was {'terminated' if kind is Terminated else 'interrupted'}") from None
    if not trainer.state.finished:
        raise KeyboardInterrupt(f"phase {lit.phase.name} was interrupted")
    return read_history(folder / LAST, after=after)


class _Checkpoint(ModelCheckpoint):
    """Passes over the epochs whose weights the method does not let be chosen."""

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        lit = trainer.lightning_module
        assert isinstance(lit, Lit)
        return lit.method.selectable(lit.net) and super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # the run's folder may have been moved; Lightning would forget the best score of a checkpoint from elsewhere
        assert self.dirpath is not None
        super().load_state_dict(_moved(state_dict, state_dict["dirpath"], str(self.dirpath)))


def _moved(state: Any, old: str, new: str) -> Any:
    """``state`` with the paths below ``old`` as they are below ``new``, keys among them."""
    if isinstance(state, str):
        return new + state.removeprefix(old) if state == old or state.startswith(old + os.sep) else state
    if isinstance(state, dict):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in state.items()}
    return state


def _checkpoint(
    folder: Path, name: str, *, monitor: str | None = None, mode: str = "max", weights_only: bool = False
) -> ModelCheckpoint:
    """Write ``<folder>/<name>.ckpt`` at the end of each epoch (with ``monitor``: of each better one)."""
    return _Checkpoint(
        dirpath=folder,
        filename=name,
        monitor=monitor,
        mode=mode,
        save_weights_only=weights_only,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _reraise(error: Exception) -> None:
    """Turn a worker's ``UserError`` back into one; the workers' exceptions arrive as text."""
    marker = "prunebench.errors.UserError: "
    text = str(error)
    if marker in text:
        raise UserError(text.split(marker, 1)[1].strip().splitlines()[0]) from None
    raise error


def read_history(checkpoint: Path, *, after: str) -> list[dict[str, Any]]:
    """The epoch records inside a checkpoint; they are read from there because workers may have trained."""
    state = read_checkpoint(checkpoint, after=after)
    records: list[dict[str, Any]] = state["callbacks"][History.__name__]["records"]
    return records
