"""Loggers beside ``metrics.csv``; none of them can fail a run.

TensorBoard has a folder for each phase and one for what the run ends with. Weights & Biases has one run for a run,
begun by its first phase and finished by :func:`conclude` (or :func:`abandon`), grouped by the configuration, so that
its seeds stand together; the curves of a phase are called after it. A run that was interrupted is begun again under
the same id.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from prunebench.config.arguments import fit
from prunebench.config.plain_values import LOGGERS
from prunebench.config.ranges import Among
from prunebench.measure.metrics import is_number
from prunebench.training import logged_figures

RESULT = "result"
"""The folder of TensorBoard for what a run ends with."""
_ENDS = ("metrics", "cost", "latency")
"""Parts of a result whose numbers are shown when it is there."""


class Guarded(Logger):
    """A logger that may fail without failing the run: the first error is a warning, the rest is silent.

    It travels to spawned workers with ``inner``, or without it where ``inner`` cannot be sent.

    Args:
        prefix: of every name, for a logger that has one list of names for all phases.
    """

    def __init__(self, inner: Logger, prefix: str = "") -> None:
        super().__init__()
        self._inner: Logger | None = inner
        self._prefix = prefix

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
        self._try("log_metrics", {f"{self._prefix}{name}": value for name, value in metrics.items()}, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Lightning knows none; the configuration is logged when the logger is built."""

    def finalize(self, status: str) -> None:
        self._try("finalize", status)

    def close(self) -> None:
        """The phase is over: the next one has a logger of its own."""
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
        settings: the config group ``logger``: ``name`` (csv, tensorboard, wandb) and the logger's own options; under
            ``config`` the run's whole configuration.
        folder: of the run, ``.../<id>/seed_<n>``.
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
        inner = _wandb(settings, folder, run)
        return [Guarded(inner, f"{phase}/")]
    except Exception as error:
        warnings.warn(f"logger={name} could not start ({error}); the run goes on without it", stacklevel=2)
        return []


def _wandb(settings: Mapping[str, Any], folder: Path, run: str) -> WandbLogger:
    """The run in progress, or a new one, which is started now, inside the guard of who calls."""
    folder.mkdir(parents=True, exist_ok=True)
    group, seed = folder.parent.name, folder.name
    online: dict[str, Any] = {"resume": "allow"} if settings["online"] else {}
    inner = WandbLogger(
        name=f"{run}/{group}/{seed}",
        id=f"{group}-{seed}",
        group=f"{run}/{group}",
        project=settings["project"],
        offline=not settings["online"],
        save_dir=folder,
        config=dict(flat(settings.get("config") or {})),
        **online,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a wandb run already in progress")  # as it should be
        inner.experiment  # noqa: B018 - starts the run
    return inner


def conclude(
    settings: Mapping[str, Any],
    *,
    folder: Path,
    run: str,
    result: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Log what a run ends with: the configuration, the numbers of all stages, the costs, the latency, pictures.

    Args:
        settings, folder, run: see :func:`build_loggers`.
        result: the content of ``result.json``. ``history``: the lines of ``metrics.csv``.
    """
    name = settings["name"]
    if name == "csv":
        return
    try:
        numbers = {
            key: float(value) for part in _ENDS for key, value in flat(result.get(part) or {}, part) if is_number(value)
        }
        drawn = logged_figures.draw(result, history, folder)
        (_to_tensorboard if name == "tensorboard" else _to_wandb)(settings, folder, run, numbers, drawn)
    except Exception as error:
        warnings.warn(f"the logger stopped ({error}); the run is complete, result.json has everything", stacklevel=2)
    finally:
        abandon(settings)


def _to_tensorboard(
    settings: Mapping[str, Any], folder: Path, run: str, numbers: Mapping[str, float], drawn: Mapping[str, Any]
) -> None:
    logger = TensorBoardLogger(folder / "tensorboard", name="", version=RESULT)
    config = dict(flat(settings.get("config") or {}))
    # strings and numbers are what its table of settings takes
    logger.log_hyperparams(
        {key: value if is_number(value) else str(value) for key, value in config.items()}, dict(numbers)
    )
    logger.experiment.add_text("configuration", "\n".join(f"    {key}: {value}" for key, value in config.items()))
    for title, figure in drawn.items():
        logger.experiment.add_figure(title, figure)
    logger.finalize("success")
    logger.experiment.close()


def _to_wandb(
    settings: Mapping[str, Any], folder: Path, run: str, numbers: Mapping[str, float], drawn: Mapping[str, Any]
) -> None:
    import wandb

    experiment = _wandb(settings, folder, run).experiment
    experiment.summary.update(numbers)
    experiment.log({title: wandb.Image(figure) for title, figure in drawn.items()})


def abandon(settings: Mapping[str, Any]) -> None:
    """The run ends here, with or without a result: what is begun next is another one."""
    if settings["name"] != "wandb":
        return
    try:
        import wandb

        if wandb.run is not None:
            wandb.run.finish()
    except Exception as error:
        warnings.warn(f"the logger did not finish ({error})", stacklevel=2)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted key, value)`` of nested tables; what is measured layer by layer is left out, it is in the pictures."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "per_layer":
                yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
