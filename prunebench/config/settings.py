"""How and where a run computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from prunebench.config.arguments import fitted, validated
from prunebench.config.ranges import Among, PositiveInt, Range
from prunebench.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp")
ACCELERATORS = ("auto", "cpu", "gpu")
MAX_THREADS = 1024
"""Far above any machine's cores; torch would really start a million, and hang."""


@validated
@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How and where a phase trains; see ``conf/trainer/default.yaml``."""

    precision: Annotated[str, Among(PRECISIONS)]
    channels_last: bool
    deterministic: bool | Annotated[str, Among(("warn",))]
    accelerator: Annotated[str, Among(ACCELERATORS)]
    devices: PositiveInt
    strategy: Annotated[str, Among(STRATEGIES)]
    num_threads: Annotated[int, Range(low=1, high=MAX_THREADS)] | None
    progress: bool

    def __post_init__(self) -> None:
        if self.devices > 1 and self.strategy != "ddp":
            raise UserError(f"trainer.devices={self.devices} needs trainer.strategy=ddp")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("trainer.accelerator=gpu, but torch sees no GPU here; use trainer.accelerator=cpu")
        if self.accelerator == "gpu" and self.devices > torch.cuda.device_count():
            raise UserError(f"trainer.devices={self.devices}, but torch sees {torch.cuda.device_count()} GPUs here")

    @property
    def device(self) -> torch.device:
        """Where the nets are evaluated and timed: the first of the devices that train."""
        use_gpu = self.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda", 0) if use_gpu else torch.device("cpu")


def trainer_settings(settings: Mapping[str, Any]) -> TrainerSettings:
    """The config group ``trainer``.

    Raises:
        UserError: an unknown key, a value of another type or outside its range.
    """
    return TrainerSettings(**fitted(TrainerSettings, settings, where="trainer"))
