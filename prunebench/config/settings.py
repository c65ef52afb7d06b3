"""How and where a run computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.config import arguments
from prunebench.errors import UserError, nearest

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How and where a phase trains; see ``conf/trainer/default.yaml``."""

    precision: str
    channels_last: bool
    deterministic: bool | str
    accelerator: str
    devices: int
    strategy: str
    num_threads: int | None
    progress: bool

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("strategy", self.strategy, STRATEGIES),
            ("accelerator", self.accelerator, ("auto", "cpu", "gpu")),
        ):
            if value not in allowed:
                raise UserError(
                    f"trainer.{name}={value} is unknown; use one of: {', '.join(allowed)}{nearest(str(value), allowed)}"
                )
        if self.deterministic not in (True, False, "warn"):
            raise UserError(f"trainer.deterministic must be true, false or warn, got {self.deterministic!r}")
        if self.devices < 1:
            raise UserError(f"trainer.devices must be a whole number of at least 1, got {self.devices!r}")
        if self.devices > 1 and self.strategy != "ddp":
            raise UserError(f"trainer.devices={self.devices} needs trainer.strategy=ddp")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("trainer.accelerator=gpu, but torch sees no GPU here; use trainer.accelerator=cpu")
        if self.num_threads is not None and self.num_threads < 1:
            raise UserError(f"trainer.num_threads must be at least 1 or null, got {self.num_threads!r}")
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
    return TrainerSettings(**arguments.fitted(TrainerSettings, settings, where="trainer"))
