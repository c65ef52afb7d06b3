"""Loggers beside ``metrics.csv``; none of them can fail a run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from prunebench.config.arguments import fit
from prunebench.config.ranges import Among

LOGGERS = ("csv", "tensorboard", "wandb")


class Guarded(Logger):
    """A logger that may fail without failing the run: the first error is a warning, the rest is silent.

    It travels to spawned workers with ``inner``, or without it where ``inner`` cannot be sent.
    """

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self._inner: Logger | None = inner

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._inner is not None and not self._guard(pickle.dumps, self._inner):
            state["_inner"] = None
        return state

    @property
    def name(self) -> str | None:
        return "guarded"

    @property
    def version(self) -> str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try("log_metrics", dict(metrics), step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config file is the record."""

    def finalize(self, status: str) -> None:
        self._try("finalize", status)

    def close(self) -> None:
        """The phase is over: the next one has a logger of its own."""
        if isinstance(self._inner, WandbLogger):
            # else the next phase would get this one's run: wandb.init answers with a run in progress
            self._guard(self._inner.experiment.finish)
        self._inner = None

    def _try(self, call: str, *args: Any) -> None:
        if self._inner is not None:
            self._guard(getattr(self._inner, call), *args)

    def _guard(self, call: Callable[..., object], *args: Any) -> bool:
        """Whether ``call`` went well."""
        try:
            call(*args)
            return True
        except Exception as error:
            warnings.warn(f"the logger stopped ({error}); the run goes on, metrics.csv has everything", stacklevel=2)
            self._inner = None
            return False


def build_loggers(settings: Mapping[str, Any], *, folder: Path, run: str, phase: str) -> list[Guarded]:
    """Loggers beside ``metrics.csv``, which is always written. A logger that cannot start is a warning.

    Args:
        settings: the config group ``logger``: ``name`` (csv, tensorboard, wandb) and the logger's own options.
        run, phase: label the curves.

    Returns:
        Loggers to be closed when the phase is over.
    """
    name = settings["name"]
    fit(name, Annotated[str, Among(LOGGERS)], "logger.name")
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
