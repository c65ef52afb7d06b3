"""What a net is trained for: the loss, the probabilities, the metrics that watch the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch: TypeAlias = tuple[Tensor, Tensor]


class Task(Protocol):
    """The interface between a net's output and everything that scores it."""

    @property
    def monitor(self) -> str:
        """Name of the validation metric that selects the best epoch."""

    @property
    def mode(self) -> str:
        """``"max"`` or ``"min"``."""

    def smoothed(self, label_smoothing: float) -> Task: ...
    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]: ...
    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor: ...
    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Classification:
    """One label per sample.

    Attributes:
        num_classes: number of classes.
        label_smoothing: mass moved from the label to the uniform distribution, in training only.
    """

    num_classes: int
    label_smoothing: float = 0.0
    monitor: str = "val/accuracy"
    mode: str = "max"

    def smoothed(self, label_smoothing: float) -> Classification:
        return replace(self, label_smoothing=label_smoothing)

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy in nats, mean over the batch."""
        images, labels = batch
        return {"ce": F.cross_entropy(net(images), labels, label_smoothing=self.label_smoothing)}

    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Softmax in float32, ``[batch, classes]``."""
        return torch.softmax(net(batch[0]).float(), dim=1)

    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Accuracy and NLL (nats) of the mean predictive distribution ``[batch, classes]``, means over the batch."""
        labels = batch[1]
        picked = probabilities.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        return {
            "val/accuracy": (probabilities.argmax(1) == labels).float().mean(),
            "val/nll": -picked.log().mean(),
        }
