"""What a net is trained for: the loss, the probabilities, the metrics that watch the training and end up in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.core.language import LanguageModelling
from prunebench.core.regression import Regression
from prunebench.data.base import Data
from prunebench.measure import evaluate
from prunebench.measure.metrics import ACCURACY, NLL

Batch: TypeAlias = tuple[Tensor, Tensor]
Predict: TypeAlias = Callable[[Batch], Tensor]


class Task(Protocol):
    """The interface between a net's output and everything that scores it. The task runs the net, not the method."""

    @property
    def monitor(self) -> str:
        """Name of the validation metric that selects the best epoch."""

    @property
    def mode(self) -> str:
        """``"max"`` or ``"min"``."""

    def smoothed(self, label_smoothing: float) -> Task:
        """The same task with other label smoothing, and with nothing remembered."""

    def reset(self) -> None:
        """Forget what was carried from batch to batch: an epoch, a validation or a test begins."""

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Named scalar terms of the training loss."""

    def refuses(self, found: Any) -> str | None:
        """Why ``found``, what a net has answered to one example, is no prediction for this task; None if it is one."""

    def outputs(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """What ``net`` gives before the softmax, from nothing remembered: to compare two nets."""

    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Predictive distributions in float32, ``[targets of the batch, classes]``."""

    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Scalars that watch the training, means over the targets of the batch."""

    def evaluate(self, predict: Predict, batches: Iterable[Batch]) -> tuple[dict[str, Any], evaluate.Evaluation | None]:
        """Metrics of a whole split for ``result.json``, and the predictions if they are worth keeping.

        Args:
            predict: gives probabilities ``[samples, targets, classes]`` for a batch.
            batches: the split, in its order.
        """

    def headline(self, metrics: Mapping[str, Any]) -> str:
        """The one number of ``metrics`` to show, in words."""


@dataclass(frozen=True)
class Classification:
    """One label per sample.

    Attributes:
        num_classes: number of classes.
        label_smoothing: mass moved from the label to the uniform distribution, in training only.
    """

    num_classes: int
    label_smoothing: float = 0.0
    monitor: ClassVar[str] = ACCURACY.logged
    mode: ClassVar[str] = ACCURACY.mode

    @classmethod
    def of(cls, data: Data) -> Classification:
        """The task that ``data`` is for."""
        return cls(num_classes=data.num_classes)

    def smoothed(self, label_smoothing: float) -> Classification:
        """The same task with this label smoothing."""
        return replace(self, label_smoothing=label_smoothing)

    def reset(self) -> None:
        """Nothing is carried: samples are independent."""

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy in nats, mean over the batch."""
        images, labels = batch
        return {"ce": F.cross_entropy(net(images), labels, label_smoothing=self.label_smoothing)}

    def each_loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of each example, ``[batch]``, in float32."""
        logits = net(batch[0]).float()
        return F.cross_entropy(logits, batch[1], label_smoothing=self.label_smoothing, reduction="none")

    def refuses(self, found: Any) -> str | None:
        """Anything but logits ``[1, classes]``."""
        if not isinstance(found, Tensor):
            return f"a classifier gives one tensor of logits, and this net gives a {type(found).__name__}"
        if list(found.shape) != [1, self.num_classes]:
            needed = [1, self.num_classes]
            return f"its output has the shape {list(found.shape)} for one sample, {needed} is needed, a logit per class"
        return None

    def outputs(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""
        logits: Tensor = net(inputs)
        return logits

    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Softmax in float32, ``[batch, classes]``."""
        return torch.softmax(net(batch[0]).float(), dim=1)

    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Accuracy and NLL (nats) of the mean predictive distribution ``[batch, classes]``, means over the batch."""
        labels = batch[1]
        picked = probabilities.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        return {
            ACCURACY.logged: (probabilities.argmax(1) == labels).float().mean(),
            NLL.logged: -picked.log().mean(),
        }

    def evaluate(self, predict: Predict, batches: Iterable[Batch]) -> tuple[dict[str, Any], evaluate.Evaluation | None]:
        """Accuracy, NLL, calibration (see ``measure.evaluate.summarise``) and all predictions."""
        found = evaluate.probabilities(predict, batches)
        return evaluate.summarise(found, self.num_classes), found

    def headline(self, metrics: Mapping[str, Any]) -> str:
        """The accuracy, for the log."""
        return f"accuracy {ACCURACY.show(ACCURACY.within(metrics))} %"


TASKS: Mapping[str, Callable[[Data], Task]] = {
    "classification": Classification.of,
    "language_modelling": LanguageModelling.of,
    "regression": Regression.of,
}
"""By ``Data.task``."""


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss that a step minimises: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def task_of(data: Data) -> Task:
    """The task that ``data`` is for; ``data`` is set up."""
    return TASKS[data.task](data)
