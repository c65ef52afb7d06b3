"""Regression: a number or several for each example, with normal noise around what the net says.

A net for it gives means ``[batch, outputs]`` and holds the deviation s of the noise as ln s in a parameter or buffer
named :data:`NOISE`: learned, or known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.data.base import Data
from prunebench.data.tabular import TableData
from prunebench.errors import UserError
from prunebench.measure.evaluate import Evaluation
from prunebench.measure.metrics import NLL, RMSE

Batch = tuple[Tensor, Tensor]
NOISE = "log_noise_std"


class Regression:
    """Normal targets. A prediction is ``[batch, 2 outputs]``: the means, and behind them the variances of the noise.

    Args:
        num_outputs: numbers to predict for each example.
    """

    monitor = RMSE.logged
    mode = RMSE.mode

    def __init__(self, *, num_outputs: int) -> None:
        self.num_outputs = num_outputs

    @classmethod
    def of(cls, data: Data) -> Regression:
        """The task that ``data`` is for."""
        assert isinstance(data, TableData)
        return cls(num_outputs=data.num_outputs)

    def smoothed(self, label_smoothing: float) -> Regression:
        """The same task.

        Raises:
            UserError: there are no labels to smooth.
        """
        if label_smoothing:
            raise UserError(
                f"label_smoothing={label_smoothing!r} is for classes, and targets are numbers here; set it to 0"
            )
        return self

    def reset(self) -> None:
        """Nothing is carried: examples are independent."""

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Negative log-likelihood in nats, summed over outputs, mean over the batch."""
        inputs, targets = batch
        log_std = _log_std(net)
        squares = ((targets - net(inputs)) * (-log_std).exp()).square() / 2
        return {"gaussian_nll": (squares + log_std + 0.5 * math.log(2 * math.pi)).sum(1).mean()}

    def refuses(self, found: Any) -> str | None:
        """Anything but means ``[1, outputs]``."""
        if not isinstance(found, Tensor):
            return f"a net for regression gives one tensor of means, and this net gives a {type(found).__name__}"
        if list(found.shape) != [1, self.num_outputs]:
            needed = [1, self.num_outputs]
            return (
                f"its output has the shape {list(found.shape)} for one example, {needed} is needed, a mean per target"
            )
        return None

    def outputs(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Means ``[batch, outputs]``."""
        means: Tensor = net(inputs)
        return means

    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Means and variances in float32, ``[batch, 2 outputs]``."""
        means = net(batch[0]).float()
        return torch.cat([means, (2 * _log_std(net)).exp().float().expand_as(means)], 1)

    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """RMSE, and the NLL (nats, a sum over outputs) of the mean prediction; means over the batch."""
        errors = probabilities[:, : self.num_outputs] - batch[1]
        return {RMSE.logged: errors.square().mean().sqrt(), NLL.logged: -self._log_prob(probabilities, batch[1]).mean()}

    def evaluate(
        self, predict: Callable[[Batch], Tensor], batches: Iterable[Batch]
    ) -> tuple[dict[str, Any], Evaluation | None]:
        """Errors over a whole split, and no predictions: they are no distributions over classes.

        Returns:
            ``num_samples``; ``rmse`` of the mean over the predictions; ``nll`` (nats, a sum over outputs) of their
            mixture with equal shares; ``noise_std`` of the net, a mean over outputs; ``num_predictions``.

        Raises:
            UserError: there is no batch, or a prediction has another number of outputs.
        """
        squares, logs, variances, count, num_predictions = 0.0, 0.0, 0.0, 0, 1
        with torch.no_grad():
            for batch in batches:
                found, targets = predict(batch).double(), batch[1].double()
                if found.shape[1:] != (len(targets), 2 * self.num_outputs):
                    raise UserError(
                        f"evaluate: a prediction must be [samples, {len(targets)}, {2 * self.num_outputs}], means and "
                        f"variances, got {list(found.shape)}"
                    )
                num_predictions = len(found)
                means = found[..., : self.num_outputs].mean(0)
                squares += float((means - targets).square().sum())
                variances += float(found[..., self.num_outputs :].mean((0, 2)).sum())
                each = torch.stack([self._log_prob(one, targets) for one in found])
                logs += float((each.logsumexp(0) - math.log(num_predictions)).sum())
                count += len(targets)
        if not count:
            raise UserError("evaluate: the data set has no batch; choose a split that is not empty")
        return {
            "num_samples": count,
            "rmse": math.sqrt(squares / (count * self.num_outputs)),
            "nll": -logs / count,
            "noise_std": math.sqrt(variances / count),
            "num_predictions": num_predictions,
        }, None

    def headline(self, metrics: Mapping[str, Any]) -> str:
        """The root mean squared error, for the log."""
        return f"{RMSE.label} {RMSE.show(RMSE.within(metrics))}"

    def _log_prob(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """ln of the density of each example's targets, ``[batch]``."""
        means, variances = prediction[:, : self.num_outputs], prediction[:, self.num_outputs :]
        return -0.5 * ((targets - means).square() / variances + variances.log() + math.log(2 * math.pi)).sum(1)


def _log_std(net: nn.Module) -> Tensor:
    """ln of the deviation of the noise, a scalar.

    Raises:
        UserError: the net knows none.
    """
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if name.rpartition(".")[2] == NOISE:
            return tensor
    raise UserError(
        f"the net {type(net).__name__} has no parameter or buffer {NOISE}, the logarithm of the noise in the targets; "
        "use model=regression_mlp, or give your net one"
    )
